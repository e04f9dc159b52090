# SPDX-License-Identifier: MIT
"""`make bench-recovery`: what the in-flight journal costs and gains, in one run, as ratios.

One guest has two disks on equal images in the page cache: one with the journal, answered as
requests end, one without, answered in ring order. Rounds alternate between them. Shown are medians
and ranges over the rounds, and the median of the ratios round by round.

Before that, the cost of the path alone (bench/ring_path.py): a busy machine blurs it the least.

The last case makes one read in a thousand take 20 ms in an I/O thread (a library before libc's
preadv2 does it). So few are slow that they are not in the 99th percentile themselves: what it shows
is how long the fast ones wait for them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from rich.console import Console
from rich.table import Table

from bench import ring_path
from bench.block import MIB, POLL_US, ratio, spread
from bench.devices import cpu_seconds
from bench.lab import DEFAULT_CONFIG, Lab
from embedded.guest.client import GuestClient
from embedded.guest.control import socket_path
from embedded.guest.launch import create_guest
from worker.devices.block.guest.client import RemoteDisk
from worker.devices.block.guest.disk import DiskSpec
from worker.devices.block.guest.load import LoadConfig, Rw
from worker.devices.block.guest.toolstack import new_disks

KINDS: Final[dict[Literal["vbd", "qdisk"], str]] = {"vbd": "xvda", "qdisk": "xvdb"}
"""Two types, so that they can have different options."""
NAMES: Final = ("journal", "ring order")
SLOW_SHARE: Final = 1000
SLOW_MS: Final = 20
COST_LIMIT: Final = 1.05
"""Largest ratio of CPU time per request that is acceptable: of the path alone, and at depth 32."""


@dataclass(frozen=True, slots=True)
class Case:
    """One load; `slow`: over the whole disk, with its slow part."""

    name: str
    rw: Rw
    depth: int
    slow: bool = False


CASES: Final = (
    Case("4 KiB random read, depth 32", "randread", 32),
    Case("4 KiB random write, depth 32", "randwrite", 32),
    Case("4 KiB random read, depth 1", "randread", 1),
    Case(f"4 KiB random read, depth 32, one in {SLOW_SHARE} slow", "randread", 32, slow=True),
)


@dataclass(slots=True)
class Samples:
    """Of one case and one disk."""

    iops: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    """Nanoseconds."""
    cpu: list[float] = field(default_factory=list)
    """Nanoseconds of the worker's CPU time per request."""


@contextmanager
def slow_part(size: int) -> Iterator[None]:
    """A process that is started in here finds the last part of an image slow."""
    with tempfile.TemporaryDirectory(prefix="xbd") as directory:
        library = Path(directory) / "slow.so"
        source = Path(__file__).parent / "native" / "slow_disk.c"
        options = ["-shared", "-fPIC", "-O2"]
        subprocess.run(["cc", *options, "-o", library, source, "-ldl"], check=True)
        os.environ |= {
            "LD_PRELOAD": str(library),
            "SLOW_FROM": str(size - size // SLOW_SHARE),
            "SLOW_MS": str(SLOW_MS),
        }
        try:
            yield
        finally:
            for name in ("LD_PRELOAD", "SLOW_FROM", "SLOW_MS"):
                del os.environ[name]


@dataclass(frozen=True, slots=True)
class Disk:
    """A guest's disk and the worker behind it."""

    name: str
    vdev: str
    pid: int


def run(
    guest: GuestClient, disk: Disk, case: Case, size: int, seconds: float, samples: Samples
) -> None:
    """One measurement."""
    before = cpu_seconds(disk.pid)
    result = RemoteDisk(guest, disk.vdev).io(
        LoadConfig(
            rw=case.rw,
            depth=case.depth,
            runtime=seconds,
            poll_us=POLL_US,
            size=0 if case.slow else (size - size // SLOW_SHARE) // 4096 * 4096,
        ),
    )
    if not result.ok:
        raise RuntimeError(f"{case.name}: {result.end} {result.error} {result.errors} errors")
    latency = result.read_latency if "read" in case.rw else result.write_latency
    samples.iops.append(result.iops)
    samples.p99.append(latency.p99)
    used = cpu_seconds(disk.pid) - before
    samples.cpu.append(used / (result.reads + result.writes) * 1e9)


def measure(
    guest: GuestClient, disks: list[Disk], size: int, rounds: int, seconds: float
) -> dict[tuple[str, str], Samples]:
    """All rounds; by case and disk."""
    samples = {(case.name, disk.name): Samples() for case in CASES for disk in disks}
    for number in range(rounds):
        for case in CASES:
            for disk in disks[:: 1 if number % 2 == 0 else -1]:
                run(guest, disk, case, size, seconds, samples[case.name, disk.name])
            sys.stderr.write(f"\rround {number + 1}/{rounds}: {case.name:60}")
    sys.stderr.write("\r" + " " * 80 + "\r")
    return samples


def report(samples: dict[tuple[str, str], Samples]) -> bool:
    """Print the table; whether the cost is within its limit."""
    table = Table(title="journal beside ring order, median (range)", title_justify="left")
    table.add_column("case")
    for figure in ("IOPS", "p99 µs", "CPU ns per request"):
        for column in ("journal", "ring order", "ratio"):
            table.add_column(f"{figure} {column}", justify="right")
    held = True
    for case in CASES:
        ours, theirs = (samples[case.name, name] for name in NAMES)
        # Beside slow requests the journal serves several times as many: nothing to compare.
        bounded = case.depth == 32 and not case.slow
        held &= not bounded or ratio(ours.cpu, theirs.cpu) <= COST_LIMIT
        table.add_row(
            case.name,
            spread(ours.iops),
            spread(theirs.iops),
            f"{ratio(ours.iops, theirs.iops):.3f}",
            spread(ours.p99, 1000),
            spread(theirs.p99, 1000),
            f"{ratio(ours.p99, theirs.p99):.3f}",
            spread(ours.cpu),
            spread(theirs.cpu),
            f"{ratio(ours.cpu, theirs.cpu):.3f}",
        )
    Console(highlight=False, width=200).print(table)
    return held


def main() -> int:
    """Run the benchmark; exit status 1 if the journal costs more than its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each measurement")
    parser.add_argument("--size", type=int, default=128, help="of each image, MiB")
    args = parser.parse_args()
    size = args.size * MIB
    ours, theirs, cost = ring_path.measure(2 * args.rounds + 1)
    sys.stdout.write(
        f"the path alone: {ours:.0f} ns per request with the journal,"
        f" {theirs:.0f} in ring order: {cost:.3f}\n"
    )
    types = {
        kind: {"handler": "block", "options": {"poll_us": POLL_US, "journal": journal}}
        for kind, journal in zip(KINDS, (True, False), strict=True)
    }
    with slow_part(size), Lab({**DEFAULT_CONFIG, "types": types}) as lab:
        specs = []
        for kind, vdev in KINDS.items():
            image = lab.images / f"{vdev}.img"
            with image.open("wb") as file:
                for _ in range(args.size):
                    file.write(os.urandom(MIB))
            specs.append(DiskSpec(path=str(image), vdev=vdev, kind=kind))
        create_guest(lab.embedded_dir, "bench", new_disks(specs))
        disks = []
        for name, spec in zip(NAMES, specs, strict=True):
            status = lab.wait_connected(f"{spec.kind}/1/{spec.devid}")
            assert status.pid is not None
            disks.append(Disk(name, spec.vdev, status.pid))
        guest = GuestClient(socket_path(lab.embedded_dir, 1))
        held = report(measure(guest, disks, size, args.rounds, args.seconds))
    return 0 if held and cost <= COST_LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
