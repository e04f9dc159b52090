# SPDX-License-Identifier: MIT
"""`make bench-xen`: our worker, Debian's QEMU qdisk and the kernel's blkback on real Xen.

One guest has three disks over one image, in a machine that QEMU emulates (tests/xen/bed, with a bed
of its own: XENBACKD_XEN_BED with "-bench" behind it). In every round each case is measured with
each backend in turn; a round's order is one of the six there are, so that six rounds are fair to
every place.

The machine's clock is the number of instructions it has run (2 ns each, one CPU at a time): what
else the host does is not seen in the figures, nor is what caches, memory and two CPUs at once would
change. `--host-clock` takes the host's clock and both CPUs, for a host that does nothing else.

Standard output is Markdown, progress goes to standard error. Exit status 1: a floor is broken; 77:
the machine cannot be had here.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import signal
import sys
import time
from typing import Final

from bench.xen_machine import BACKENDS, IMAGE, SIZE_MIB, XenBench, bench_bed
from bench.xen_report import CASES, Sample, Samples, Standing, broken, costs, rates, standing
from tests.xen.bed.dom0 import LOG, Dom0
from tests.xen.bed.image import Bed
from tests.xen.bed.machine import Machine
from tests.xen.bed.packages import Unavailable

SKIPPED: Final = 77
IDLE_SECONDS: Final = 60.0


def say(text: str) -> None:
    """Progress."""
    sys.stderr.write(f"bench-xen: {text}\n")
    sys.stderr.flush()


def measure(bench: XenBench, rounds: int, seconds: float) -> Samples:
    """All rounds."""
    samples: Samples = {case: {name: [] for name in BACKENDS} for case in CASES}
    before = bench.snapshot()
    orders = itertools.cycle(itertools.permutations(BACKENDS))
    for number, order in zip(range(1, rounds + 1), orders, strict=False):
        for case in CASES:
            for backend in order:
                load = bench.fio(backend, case.rw, case.block, case.depth, seconds)
                after = bench.snapshot()
                found = Sample(
                    rate=load.rate,
                    backend_us=bench.backend_us(backend, before, after) / load.ios,
                    dom0_us=bench.dom0_us(before, after) / load.ios,
                )
                before = after
                samples[case][backend].append(found)
                say(
                    f"round {number}/{rounds}: {case.name}: {backend}: {found.rate:.0f}/s,"
                    f" {found.backend_us:.0f} us of backend, {found.dom0_us:.0f} us of dom0"
                )
    return samples


def run(bench: XenBench, rounds: int, seconds: float, how: str) -> int:
    """Measure and print."""
    say(f"idle for {IDLE_SECONDS:.0f} s")
    idle = bench.idle(IDLE_SECONDS)
    samples = measure(bench, rounds, seconds)
    found = Standing(bench.pss_mib(), bench.mib_free, bench.start_seconds, IDLE_SECONDS, idle)
    print(f"{rounds} rounds, {seconds:g} s each; {IMAGE}, {SIZE_MIB} MiB, {how}.")
    for table in (rates(samples), costs(samples), standing(found)):
        print()
        print("\n".join(table))
    complaints = broken(samples)
    for line in complaints:
        say(f"floor broken: {line}")
    return 1 if complaints else 0


def main() -> int:
    """Build the bed, boot it, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, help="of each measurement; 0.25, host's clock 5")
    parser.add_argument("--host-clock", action="store_true", help="time as the host has it")
    parser.add_argument("--direct", action="store_true", help="O_DIRECT for all, not page cache")
    args = parser.parse_args()
    seconds = args.seconds or (5.0 if args.host_clock else 0.25)
    # An orderly end is one that stops QEMU.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    bed = bench_bed()
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(bed.mine())
            bed.build()
        except Unavailable as why:
            say(f"skipped: {why}")
            return SKIPPED
        say(f"{bed.directory} ready in {time.monotonic() - start:.0f} s")
        return measure_in(bed, args, seconds)


def measure_in(bed: Bed, args: argparse.Namespace, seconds: float) -> int:
    """Boot the bed and measure."""
    machine = Machine(bed, counted=not args.host_clock)
    try:
        dom0 = Dom0(machine)
        try:
            bench = XenBench(dom0, direct=args.direct, seconds=seconds)
            caching = "O_DIRECT" if args.direct else "dom0's page cache"
            clock = "the host's clock" if args.host_clock else "a clock of instructions"
            return run(bench, args.rounds, seconds, f"{caching} for all, {clock}")
        finally:
            (bed.logs / "xenbackd.log").write_text(dom0.try_run(f"cat {LOG}")[1])
    finally:
        machine.stop()


if __name__ == "__main__":
    sys.exit(main())
