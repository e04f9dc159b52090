# SPDX-License-Identifier: MIT
"""What `make bench-xen` prints: Markdown as it stands in docs/performance.md, and the floor.

Ratios are made round by round, and their median is taken: what a noisy machine does to one backend
in a round, it does to the others.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from bench.block import ratio, spread
from bench.xen_machine import BACKENDS, MIB, Backend


@dataclass(frozen=True, slots=True)
class Case:
    """One access pattern; `floor` is the smallest ratio to QEMU that is acceptable."""

    name: str
    rw: str
    block: int
    depth: int
    floor: float | None = None


CASES: Final = (
    Case("4 KiB random read, depth 1", "randread", 4096, 1),
    Case("4 KiB random write, depth 1", "randwrite", 4096, 1),
    Case("4 KiB random read, depth 16", "randread", 4096, 16, 1.0),
    Case("4 KiB random write, depth 16", "randwrite", 4096, 16, 1.0),
    Case("64 KiB sequential read, depth 4", "read", 65536, 4),
    Case("64 KiB sequential write, depth 4", "write", 65536, 4),
    Case("1 MiB sequential read, depth 2", "read", MIB, 2),
    Case("1 MiB sequential write, depth 2", "write", MIB, 2),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One run: I/Os per second, and CPU microseconds per I/O of the backend and of all of dom0."""

    rate: float
    backend_us: float
    dom0_us: float


Samples = dict[Case, dict[Backend, list[Sample]]]


@dataclass(frozen=True, slots=True)
class Standing:
    """What does not depend on the access pattern; seconds, MiB, and CPU seconds."""

    pss: dict[Backend, float]
    mem_free: dict[Backend, float]
    start: float
    idle_seconds: float
    idle: dict[str, float]


def row(*cells: str) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def head(*names: str) -> Iterator[str]:
    """A table's first two lines: words to the left, figures to the right."""
    yield row(*names)
    yield "|---|" + "--:|" * (len(names) - 1)


def rates(samples: Samples) -> Iterator[str]:
    """I/Os per second and the ratios."""
    ratios = ("to QEMU", "floor", "to blkback")
    yield from head("I/Os per second, median (range)", *BACKENDS, *ratios)
    for case, kept in samples.items():
        ours, qemu, kernel = ([x.rate for x in kept[name]] for name in BACKENDS)
        yield row(
            case.name,
            *(spread(x) for x in (ours, qemu, kernel)),
            f"{ratio(ours, qemu):.2f}",
            "" if case.floor is None else f"{case.floor:g}",
            f"{ratio(ours, kernel):.2f}",
        )


def costs(samples: Samples) -> Iterator[str]:
    """CPU time per I/O."""
    whole = [f"dom0 with {name}" for name in BACKENDS]
    yield from head("CPU µs per I/O, median (range)", *BACKENDS, *whole)
    for case, kept in samples.items():
        yield row(
            case.name,
            *(spread([x.backend_us for x in kept[name]]) for name in BACKENDS),
            *(f"{statistics.median(x.dom0_us for x in kept[name]):,.0f}" for name in BACKENDS),
        )


def standing(found: Standing) -> Iterator[str]:
    """Memory, idleness and the start."""
    yield from head("One disk in dom0", "measured")
    for name, mib in found.pss.items():
        yield row(f"proportional set size, {name}", f"{mib:.1f} MiB")
    for name, mib in found.mem_free.items():
        yield row(f"MemFree lost by attaching and using it, {name}", f"{mib:.1f} MiB")
    for who, seconds in found.idle.items():
        share = 100 * seconds / found.idle_seconds
        yield row(
            f"CPU in {found.idle_seconds:.0f} s without I/O, {who}",
            f"{seconds:.2f} s ({share:.1f} %)",
        )
    yield row("xenbackd: directory written to InitWait", f"{found.start:.1f} s")


def broken(samples: Samples) -> list[str]:
    """The floors that were not held."""
    complaints = []
    for case, kept in samples.items():
        ours, qemu = ([x.rate for x in kept[name]] for name in ("xenbackd", "QEMU"))
        found = ratio(ours, qemu)
        if case.floor is not None and found < case.floor:
            complaints.append(f"{case.name}: {found:.3f} of QEMU, floor {case.floor:g}")
    return complaints
