# SPDX-License-Identifier: MIT
"""xenstored absent, killed or silent: guests' I/O goes on, and afterwards everything works."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.held import below
from bench.lab import Lab
from tests.process.lab_world import CONFIG, DEADLINE, World, running_world

HOST_ERROR = 75


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A running xenbackd beside its hypervisor, with a neighbour; xenstored is soon missed."""
    with running_world({**CONFIG, "xenstore": {"timeout": 1.0}}, own_hypervisor=True) as it:
        yield it


@pytest.mark.parametrize(
    ("hypervisor", "said"), [("auto", "--embedded"), ("embedded", "xenstored/socket")]
)
def test_xenstored_absent_at_start_is_one_clear_line(hypervisor: str, said: str) -> None:
    """`serve` ends with 75 and says what is missing; it leaves no socket and no process."""
    lab = Lab({**CONFIG, "hypervisor": hypervisor})
    try:
        done = lab.run("serve", "-c", str(lab.config_path))
        assert done.returncode == HOST_ERROR
        # Apart from that, a host may have no control groups for workers.
        [line] = [one for one in done.stderr.splitlines() if "WARNING jail: " not in one]
        assert said in line
        assert not list(lab.directory.glob("*.sock"))
    finally:
        lab.remove()


def test_xenstored_killed_is_not_noticed_by_guests_and_made_up_for(world: World) -> None:
    """The supervisor connects again with all its watches; devices made meanwhile are served."""
    with world.untouched(replaced=_xenstored(world)):
        with world.guest() as guest:
            guest.disk.connect(DEADLINE)
            before = world.lab.wait_connected(guest.device)
            watches = world.held().watches
            reconnects = world.lab.status().resources["xenstore_reconnects"]
            os.kill(_xenstored(world), signal.SIGKILL)
            guest.works()
            world.lab.wait(
                lambda: (
                    world.lab.status().resources["xenstore_reconnects"] > reconnects
                    and world.lab.status().xenstore == "connected"
                ),
                DEADLINE,
                "the connection to come back",
            )
            guest.works()
            after = world.lab.wait_connected(guest.device)
            assert (after.pid, after.error) == (before.pid, "")
            assert world.held().watches == watches
        with world.guest() as later:
            later.disk.connect(DEADLINE)
            later.works()


def test_xenstored_silent_is_reported_and_a_killed_worker_waits_for_it(world: World) -> None:
    """Stopped: rings run on, status says it is lost; a successor serves once it answers again."""
    with world.untouched(), world.guest() as guest:
        guest.disk.connect(DEADLINE)
        before = world.lab.wait_connected(guest.device)
        assert before.pid is not None
        with _stopped(_xenstored(world)):
            # A request without an answer is what shows it.
            os.kill(before.pid, signal.SIGKILL)
            world.lab.wait(
                lambda: world.lab.status().xenstore.startswith("lost"), DEADLINE, "loss to be seen"
            )
            world.neighbour.works_on()
            waiting = world.lab.device(guest.device)
            assert waiting is not None
            assert waiting.phase != "serving"
        after = world.lab.wait_connected(guest.device, DEADLINE)
        guest.works()
        assert (after.hold, after.failures) == ("", 1)
        assert after.error == ""


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _xenstored(world: World) -> int:
    assert world.lab.hypervisor_pid is not None
    [pid] = [
        pid
        for pid in below({world.lab.hypervisor_pid})
        if b"xenstored" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return pid
