# SPDX-License-Identifier: MIT
"""What a guest notices of a supervisor that is killed or upgraded, and what is left of it.

`python -m bench.adoption [--rounds N]` runs three loads of the same length on one disk, each with
verification: undisturbed, with `kill -9` of the supervisor and a new one N times, and with
`xenbackd upgrade` N times. It prints the longest and the 99.9th percentile time of a request in
each, and what the supervisor, the worker and the hypervisor hold before and after. Exits with 1 on
an I/O error, a mismatch, another worker, or anything that is held afterwards and was not before.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bench.lab import DEFAULT_CONFIG, Lab
from embedded.hypercalls import Hypercalls
from shared.control import DeviceStatus

GUEST = "web"


class Held(NamedTuple):
    """What could leak."""

    supervisor: int
    worker: int
    """Open descriptors of both."""
    hypervisor: dict[int, tuple[int, int, int]]
    """Ports, bound ports and handles of each domain; not mappings, for persistent grants grow."""
    files: frozenset[str]
    """Names in the runtime directory, without the fork servers' sockets, whose names are random."""
    processes: int
    """Of this installation: all that log where its supervisor does."""


def held(lab: Lab, device: DeviceStatus) -> Held:
    """Count."""
    assert lab.supervisor is not None
    with Hypercalls(lab.embedded_dir) as hypercalls:
        domains = hypercalls.stats().domains
    return Held(
        supervisor=_descriptors(lab.supervisor.pid),
        worker=_descriptors(device.pid or 0),
        hypervisor={i: (one.ports, one.bound, one.handles) for i, one in domains.items()},
        files=frozenset(
            str(path.relative_to(lab.directory))
            for path in lab.directory.rglob("*")
            if path.parent.name != "fork"
        ),
        processes=_processes(lab.log_path),
    )


def _descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def _processes(log: Path) -> int:
    count = 0
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended, or is not ours to look at
            count += (entry / "fd" / "2").readlink() == log
    return count


def _brief(value: object) -> object:
    return f"{len(value)} names" if isinstance(value, frozenset) else value


def under_load(lab: Lab, deed: Callable[[], None], seconds: int) -> dict[str, Any]:
    """Run a load with `deed` in the middle of it; what the load says."""
    what = f"--rw randrw --bs 4096 --iodepth 8 --runtime {seconds} --verify --json"
    command = [*lab.command, "guest", "io", GUEST, "xvda", *what.split()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
        deed()
        assert load.stdout is not None
        result: dict[str, Any] = json.load(load.stdout)
    return result


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    config = {**DEFAULT_CONFIG, "timeouts": {"beat": 0.1, "beat_dead": 10}}
    with Lab(config, own_hypervisor=True) as lab:
        image = lab.images / "disk.img"
        with image.open("wb") as file:
            file.truncate(4 << 20)
        lab.must("guest", "create", GUEST, "--disk", str(image))
        name = lab.status().devices[0].device
        first = lab.wait_connected(name)

        def killed() -> None:
            for _ in range(rounds):
                lab.stop_supervisor(signal.SIGKILL)
                lab.start_supervisor()
                lab.wait_connected(name)

        def upgraded() -> None:
            for _ in range(rounds):
                lab.must("upgrade")
                lab.wait_connected(name)

        killed()
        upgraded()  # what is made once has been made
        before = held(lab, first)
        good = True
        seconds = max(5, 5 * rounds)
        print(f"load {os.getloadavg()[0]:.1f}, {rounds} rounds, {seconds} s of I/O each")
        for title, deed in (
            ("undisturbed", lambda: None),
            ("kill -9", killed),
            ("upgrade", upgraded),
        ):
            result = under_load(lab, deed, seconds)
            worst = max(result[f"{kind}_latency"]["max"] for kind in ("read", "write"))
            p999 = max(result[f"{kind}_latency"]["p999"] for kind in ("read", "write"))
            served = lab.wait_connected(name)
            same = (served.pid, served.generation) == (first.pid, first.generation)
            good = good and same and bool(result["ok"])
            print(
                f"{title:12} errors {result['errors']}, mismatches {result['mismatches']},"
                f" verified {result['verified']}, p99.9 {p999 / 1e6:.2f} ms, longest"
                f" {worst / 1e6:.1f} ms, {result['iops']:.0f} IOPS, same worker: {same}"
            )
        after = held(lab, lab.wait_connected(name))
        for name, had, has in zip(Held._fields, before, after, strict=True):
            print(f"{name:12} {_brief(had)} before, {_brief(has)} after")
            if had != has:
                print(f"{name:12} differs: {had} {has}")
        # A worker that was started here has three descriptors, an adopted one has one; and a
        # predecessor's fork server is watched until it ends.
        good = good and after.supervisor <= before.supervisor + 4
        return 0 if good and after._replace(supervisor=before.supervisor) == before else 1


if __name__ == "__main__":
    sys.exit(main())
