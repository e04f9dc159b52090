# SPDX-License-Identifier: MIT
"""`make bench`: the block data path beside fio, on one file, in one run, as ratios.

Each round measures every case through the ring and by fio (psync, io_uring) on the same file,
in alternating order; shown are medians and ranges over the rounds. The file is in the page cache,
as it is for all three: what is compared is the cost of the path, not the disk. CPU per request
is the worker's own user and system time divided by the requests it answered.

psync has one request in flight whatever the depth; beside depth 32 it stands for what one thread
with plain system calls can do.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.devices import cpu_seconds
from bench.lab import DEFAULT_CONFIG, Lab
from embedded.guest.client import GuestClient
from embedded.guest.control import socket_path
from embedded.guest.launch import create_guest
from worker.devices.block.guest.client import RemoteDisk
from worker.devices.block.guest.disk import DiskSpec
from worker.devices.block.guest.load import LoadConfig, Rw
from worker.devices.block.guest.toolstack import new_disks

MIB: Final = 1 << 20
POLL_US: Final = 200
"""Both ends watch the ring that long before they sleep."""
DEVICE: Final = "vbd/1/51712"


@dataclass(frozen=True, slots=True)
class Case:
    """One access pattern; `floor` is the smallest ratio to fio psync that is acceptable."""

    name: str
    rw: Rw
    block: int
    depth: int
    floor: float | None = None


CASES: Final = (
    Case("4 KiB random read, depth 1", "randread", 4096, 1),
    Case("4 KiB random read, depth 32", "randread", 4096, 32, 0.7),
    Case("4 KiB random write, depth 1", "randwrite", 4096, 1),
    Case("4 KiB random write, depth 32", "randwrite", 4096, 32),
    Case("1 MiB sequential read, depth 2", "read", MIB, 2, 0.8),
    Case("1 MiB sequential write, depth 2", "write", MIB, 2),
)


@dataclass(slots=True)
class Samples:
    """What the rounds gave for one case: I/Os per second, and CPU seconds per ring request."""

    ring: list[float] = field(default_factory=list)
    psync: list[float] = field(default_factory=list)
    io_uring: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)


def fio(image: Path, case: Case, engine: str, seconds: float) -> float:
    """I/Os per second of one fio run; the page cache is left as it is."""
    depth = case.depth if engine == "io_uring" else 1
    report = image.with_suffix(".fio")
    options = {
        "name": "x",
        "filename": image,
        "invalidate": 0,
        "rw": case.rw,
        "bs": case.block,
        "ioengine": engine,
        "iodepth": depth,
        "runtime": f"{seconds * 1000:.0f}ms",
        "output-format": "json",
        "output": report,
    }
    command = [f"--{key}={value}" for key, value in options.items()]
    subprocess.run(["fio", *command, "--time_based"], check=True, capture_output=True)
    job = json.loads(report.read_text())["jobs"][0]
    return float(job["read" if "read" in case.rw else "write"]["iops"])


def through_the_ring(lab: Lab, disk: RemoteDisk, case: Case, seconds: float) -> tuple[float, float]:
    """I/Os per second of the guest, and the worker's CPU microseconds per ring request."""
    before = lab.wait_connected(DEVICE)
    assert before.pid is not None
    cpu = cpu_seconds(before.pid)
    result = disk.io(
        LoadConfig(
            rw=case.rw, block_size=case.block, depth=case.depth, runtime=seconds, poll_us=POLL_US
        ),
    )
    used = cpu_seconds(before.pid) - cpu
    if result.end != "done" or result.errors:
        raise RuntimeError(f"{case.name}: {result.end} {result.error} {result.errors} errors")
    ios = result.reads + result.writes
    # A large I/O goes as several ring requests of at most 44 KiB.
    requests = ios * -(-case.block // (11 * 4096))
    return ios / result.elapsed, used / requests * 1e6


def spread(values: list[float], scale: float = 1, digits: int = 0) -> str:
    """Median and range."""
    low, middle, high = min(values) / scale, statistics.median(values) / scale, max(values) / scale
    return f"{middle:,.{digits}f} ({low:,.{digits}f}..{high:,.{digits}f})"


def ratio(ours: list[float], theirs: list[float]) -> float:
    """Median of the ratios round by round: what a noisy machine does to one, it does to both."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def measure(lab: Lab, image: Path, rounds: int, seconds: float) -> dict[str, Samples]:
    """All rounds."""
    disk = RemoteDisk(GuestClient(socket_path(lab.embedded_dir, 1)), "xvda")
    samples = {case.name: Samples() for case in CASES}
    for number in range(rounds):
        for case in CASES:
            kept = samples[case.name]

            def ring(case: Case = case, kept: Samples = kept) -> None:
                rate, cpu = through_the_ring(lab, disk, case, seconds)
                kept.ring.append(rate)
                kept.cpu_us.append(cpu)

            def psync(case: Case = case, kept: Samples = kept) -> None:
                kept.psync.append(fio(image, case, "psync", seconds))

            def io_uring(case: Case = case, kept: Samples = kept) -> None:
                kept.io_uring.append(fio(image, case, "io_uring", seconds))

            runs: list[Callable[[], None]] = [ring, psync, io_uring]
            for run in runs if number % 2 == 0 else reversed(runs):
                run()
            sys.stderr.write(f"\rround {number + 1}/{rounds}: {case.name:40}")
    sys.stderr.write("\r" + " " * 60 + "\r")
    return samples


def report(samples: dict[str, Samples]) -> bool:
    """Print the table; whether every floor was held."""
    table = Table(title="I/Os per second, median (range)", title_justify="left")
    for column in ("case", "ring", "fio psync", "fio io_uring", "/psync", "/io_uring", "floor"):
        table.add_column(column, justify="left" if column == "case" else "right")
    table.add_column("CPU µs per ring request", justify="right")
    held = True
    for case in CASES:
        kept = samples[case.name]
        to_psync = ratio(kept.ring, kept.psync)
        held &= case.floor is None or to_psync >= case.floor
        table.add_row(
            case.name,
            spread(kept.ring),
            spread(kept.psync),
            spread(kept.io_uring),
            f"{to_psync:.2f}",
            f"{ratio(kept.ring, kept.io_uring):.2f}",
            "" if case.floor is None else f"{case.floor}",
            spread(kept.cpu_us, digits=2),
        )
    Console(highlight=False, width=170).print(table)
    return held


def main() -> int:
    """Run the benchmark; exit status 1 if a floor was not held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--size", type=int, default=256, help="of the file, MiB")
    args = parser.parse_args()
    if shutil.which("fio") is None:
        sys.exit("missing: fio (Debian: apt-get install fio)")
    options = {"poll_us": POLL_US}
    config = {**DEFAULT_CONFIG, "types": {"vbd": {"handler": "block", "options": options}}}
    with Lab(config) as lab:
        image = lab.images / "bench.img"
        with image.open("wb") as file:
            for _ in range(args.size):
                file.write(os.urandom(MIB))
        create_guest(lab.embedded_dir, "bench", new_disks([DiskSpec(path=str(image), vdev="xvda")]))
        lab.wait_connected(DEVICE)
        held = report(measure(lab, image, args.rounds, args.seconds))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
