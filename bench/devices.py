# SPDX-License-Identifier: MIT
"""`make bench-devices`: 500 devices on the embedded hypervisor.

Measures: first directory written to the last device Connected on both sides; proportional set size
per worker; what an idle supervisor and idle workers use; 50 workers killed at once to all devices
served again, and whether the others noticed. `--devices`, `--guests` and `--kill` change the size.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import select
import signal
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.lab import DEFAULT_CONFIG, Lab, is_serving
from embedded.guest.launch import create_guest
from shared.control import DeviceStatus
from worker.devices.block.guest.disk import DiskSpec
from worker.devices.block.guest.toolstack import attach_disk

GUEST_PAGES: Final = 4096
TICKS: Final = os.sysconf("SC_CLK_TCK")
IDLE_SECONDS: Final = 10.0
ASK: Final = 0.25
"""Seconds between two questions: a status of 500 devices costs the supervisor milliseconds."""
FLOOR_CONNECT: Final = 15.0
FLOOR_PSS: Final = 5.0
FLOOR_IDLE_WORKER: Final = 0.2


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    what: str
    value: str
    floor: str = ""
    held: bool = True


def pss_mib(pid: int) -> float:
    """Proportional set size of a process."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"no Pss of {pid}")


def cpu_seconds(pid: int) -> float:
    """User and system time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def serving(lab: Lab) -> list[DeviceStatus]:
    """Devices Connected on both sides with a running ring."""
    return [device for device in lab.status().devices if is_serving(device)]


def connect_all(lab: Lab, guests: int, per_guest: int) -> Figure:
    """Attach every disk and wait."""
    names = [f"g{number}" for number in range(guests)]
    for name in names:
        create_guest(lab.embedded_dir, name, [], memory_pages=GUEST_PAGES)
    xenstore = lab.xenstore()
    try:
        domids = [int(one) for one in xenstore.directory("/local/domain") if one != "0"]
        specs = []
        for number in range(per_guest):
            image = lab.images / f"disk{number}.img"
            with image.open("wb") as file:
                file.truncate(1 << 20)
            specs.append(DiskSpec(path=str(image), vdev=f"xvd{chr(ord('a') + number)}"))
        began = time.monotonic()
        for domid in domids:
            for spec in specs:
                attach_disk(xenstore, domid, spec)
        written = time.monotonic() - began
    finally:
        xenstore.close()
    total = guests * per_guest
    lab.wait(lambda: len(serving(lab)) == total, 180, f"{total} devices Connected", ASK)
    took = time.monotonic() - began
    return Figure(
        f"{total} devices Connected ({guests} guests; directories written in {written:.1f} s)",
        f"{took:.1f} s",
        f"{FLOOR_CONNECT:g} s",
        took <= FLOOR_CONNECT,
    )


def memory(devices: list[DeviceStatus]) -> Figure:
    """Proportional set size per worker."""
    sizes = sorted(pss_mib(device.pid) for device in devices if device.pid is not None)
    return Figure(
        "PSS per worker, median (smallest to largest)",
        f"{statistics.median(sizes):.2f} MiB ({sizes[0]:.2f} to {sizes[-1]:.2f})",
        f"{FLOOR_PSS:g} MiB",
        sizes[-1] <= FLOOR_PSS,
    )


def idle(lab: Lab, devices: list[DeviceStatus]) -> list[Figure]:
    """CPU time of supervisor and workers while nothing happens."""
    assert lab.supervisor is not None
    pids = [device.pid for device in devices if device.pid is not None]
    before = cpu_seconds(lab.supervisor.pid), sum(map(cpu_seconds, pids))
    began = time.monotonic()
    select.select([], [], [], IDLE_SECONDS)
    took = time.monotonic() - began
    supervisor = (cpu_seconds(lab.supervisor.pid) - before[0]) / took * 100
    worker = (sum(map(cpu_seconds, pids)) - before[1]) / took * 100 / len(pids)
    return [
        Figure(f"supervisor, idle {IDLE_SECONDS:g} s", f"{supervisor:.1f} % of a core"),
        Figure(
            "a worker, idle",
            f"{worker:.3f} % of a core",
            f"{FLOOR_IDLE_WORKER:g} %",
            worker < FLOOR_IDLE_WORKER,
        ),
    ]


def kill_some(lab: Lab, devices: list[DeviceStatus], count: int) -> list[Figure]:
    """SIGKILL at once; everything else must stay as it was."""
    victims = random.Random(1).sample(devices, count)
    names = {device.device for device in victims}
    began = time.monotonic()
    for device in victims:
        assert device.pid is not None
        os.kill(device.pid, signal.SIGKILL)
    old = {device.pid for device in victims}

    def back() -> bool:
        now = serving(lab)
        return len(now) == len(devices) and not old & {device.pid for device in now}

    lab.wait(back, 180, "the killed devices to be served again", ASK)
    took = time.monotonic() - began
    untouched = {device.device: device.pid for device in devices if device.device not in names}
    same = sum(untouched.get(device.device) == device.pid for device in lab.status().devices)
    return [
        Figure(
            f"{count} workers killed at once: all {len(devices)} served again",
            f"{took:.1f} s",
            f"{FLOOR_CONNECT:g} s",
            took <= FLOOR_CONNECT,
        ),
        Figure(
            "devices that were not touched",
            f"{same} of {len(untouched)}",
            f"{len(untouched)}",
            same == len(untouched),
        ),
    ]


def main() -> int:
    """Run the benchmark; exit status 1 if a floor was not held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=500)
    parser.add_argument("--guests", type=int, default=25)
    parser.add_argument("--kill", type=int, default=50)
    args = parser.parse_args()
    per_guest = args.devices // args.guests
    # A process, a pidfd, an exit pipe and a ZeroMQ connection each: more than the usual 1024.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    config = {**DEFAULT_CONFIG, "log": {"level": "warning"}}
    figures: list[Figure] = []
    with Lab(config) as lab:
        figures.append(connect_all(lab, args.guests, per_guest))
        devices = serving(lab)
        figures.append(memory(devices))
        figures += idle(lab, devices)
        figures += kill_some(lab, devices, args.kill)
        began = time.monotonic()
        lab.stop_supervisor()
        figures.append(Figure("orderly stop of everything", f"{time.monotonic() - began:.1f} s"))
    table = Table(title="xenbackd devices", title_justify="left")
    for column in ("what", "measured", "floor", "held"):
        table.add_column(column)
    for figure in figures:
        table.add_row(
            figure.what, figure.value, figure.floor, "" if not figure.floor else str(figure.held)
        )
    Console(highlight=False).print(table)
    return 0 if all(figure.held for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
