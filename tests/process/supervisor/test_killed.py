# SPDX-License-Identifier: MIT
"""A supervisor that is killed while guests do I/O, and the next one."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator

import pytest

from bench.lab import DEFAULT_CONFIG, Lab

RUNTIME = 2
"""Seconds; the load then reads back all that it wrote."""

CONFIG = {**DEFAULT_CONFIG, "timeouts": {"beat": 0.1, "beat_dead": 10}}


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A hypervisor that survives the supervisor, and a guest with a disk."""
    with Lab(CONFIG, own_hypervisor=True) as made:
        image = made.images / "disk.img"
        with image.open("wb") as file:
            file.truncate(4 << 20)
        made.must("guest", "create", "web", "--disk", str(image))
        yield made


def test_supervisor_killed_under_io_is_followed_by_one_that_adopts(lab: Lab) -> None:
    """kill -9: its workers serve on and the next serve adopts them; the guest sees nothing, and
    reads what it wrote."""
    name = lab.status().devices[0].device
    before = lab.wait_connected(name)
    what = f"--rw randrw --bs 4096 --iodepth 8 --runtime {RUNTIME} --verify --json"
    with subprocess.Popen(
        [*lab.command, "guest", "io", "web", "xvda", *what.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as load:
        lab.wait_device(name, lambda device: device.counters.get("wr_req", 0) > 100)
        lab.stop_supervisor(signal.SIGKILL)
        assert load.poll() is None
        lab.start_supervisor()
        after = lab.wait_connected(name)
        lab.wait_device(name, lambda device: device.counters.get("rd_req", 0) > 100)
        out, err = load.communicate(timeout=60)

    assert (load.returncode, err) == (0, "")
    result = json.loads(out)
    assert (result["end"], result["errors"], result["mismatches"]) == ("done", 0, 0)
    assert result["verified"] > 0
    assert (after.pid, after.generation) == (before.pid, 1)
    assert "Connected -> " not in lab.log().replace("frontend Connected -> ", "")
