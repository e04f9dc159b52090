# SPDX-License-Identifier: MIT
"""`xenbackd guest io`: a load with figures."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

import msgspec

from embedded.guest.console import Column, Console
from shared.errors import ConfigError
from worker.devices.block.guest.sizes import bytes_of

if TYPE_CHECKING:
    from worker.devices.block.guest.load import Latency, LoadConfig, LoadResult, Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what comes after the guest's name."""
    add = parser.add_argument
    add("disk", metavar="DISK")
    add(
        "--rw",
        choices=["read", "write", "randread", "randwrite", "randrw"],
        default="randread",
        help="pattern (default %(default)s); those that write destroy the disk's content",
    )
    add("--bs", type=bytes_of, default=4096, metavar="N", help="bytes of one I/O (4k)")
    add("--iodepth", type=int, default=1, metavar="N", help="I/Os in flight (1)")
    add("--runtime", type=float, default=0.0, metavar="S", help="seconds")
    add("--total", type=bytes_of, default=0, metavar="N", help="bytes to move at most")
    add("--offset", type=bytes_of, default=0, metavar="N", help="where to start")
    add("--size", type=bytes_of, default=0, metavar="N", help="length of the region")
    add("--read-percent", type=int, default=50, metavar="P", help="reads in randrw (50)")
    add("--verify", action="store_true", help="compare all content that was written")
    add("--poll-us", type=int, default=0, metavar="N", help="guest watches the ring so long (0)")
    add("--stall", type=float, default=30.0, metavar="S", help=argparse.SUPPRESS)
    add("--seed", type=int, default=0x5EED, metavar="N", help="of the random pattern")
    add("--json", action="store_true", help="print JSON, for machines")


def run(args: argparse.Namespace, console: Console) -> int:
    """Run the load; 1 if an I/O failed or content was wrong."""
    from embedded.guest.launch import find_guest
    from worker.devices.block.guest.client import RemoteDisk

    config = _config(args)
    guest = find_guest(args.embedded_dir, args.name)
    watch = None if args.json or not console.interactive else _Progress(console)
    with guest.client() as client:
        result = RemoteDisk(client, args.disk).io(config, watch.show if watch else None)
    if watch:
        console.live("")
    if args.json:
        figures = msgspec.to_builtins(result)
        console.json(
            {**figures, "ok": result.ok, "iops": result.iops, "bandwidth": result.bandwidth}
        )
    else:
        what = f"{args.rw}, {console.size(args.bs)}, depth {args.iodepth}"
        _print(result, f"{guest.name} {args.disk}: {what}", console)
    return 0 if result.ok else console.fail(_verdict(result))


def _config(args: argparse.Namespace) -> LoadConfig:
    from worker.devices.block.guest.load import LoadConfig

    values = {
        "rw": args.rw,
        "block_size": args.bs,
        "depth": args.iodepth,
        "runtime": args.runtime,
        "total": args.total,
        "offset": args.offset,
        "size": args.size,
        "read_percent": args.read_percent,
        "verify": args.verify,
        "poll_us": args.poll_us,
        "stall": args.stall,
        "seed": args.seed,
    }
    try:
        return msgspec.convert(values, LoadConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"guest io: options: {error}") from error


def _print(result: LoadResult, title: str, console: Console) -> None:
    headings = ("I/Os", "IOPS", "RATE", "p50", "p99", "p99.9", "MAX")
    columns = [Column(""), *(Column(heading, right=True) for heading in headings)]
    rows = []
    for name, count, moved, latency in (
        ("read", result.reads, result.read_bytes, result.read_latency),
        ("write", result.writes, result.write_bytes, result.write_latency),
    ):
        if count:
            per_second = console.amount(count / result.elapsed)
            rate = f"{console.size(moved / result.elapsed)}/s"
            rows.append([name, str(count), per_second, rate, *_times(latency)])
    if rows:
        console.table(title, columns, rows)
    else:
        console.lines(f"{title}: no I/O was completed")
    done = result.reads + result.writes
    cpu = f", guest CPU {result.cpu / done * 1e6:.2f} us per I/O" if done else ""
    lines = [f"{console.duration(result.elapsed)}{cpu}, {result.notifies} notifications sent"]
    if result.verified or result.unverified:
        lines.append(
            f"verified {result.verified} units, {result.mismatches} wrong, "
            f"{result.unverified} of unknown content"
        )
    console.lines(*lines)


def _times(latency: Latency) -> list[str]:
    return [_time(ns) for ns in (latency.p50, latency.p99, latency.p999, latency.max)]


def _time(ns: int) -> str:
    if ns < 1_000_000:
        return f"{ns / 1e3:.1f} us"
    return f"{ns / 1e6:.1f} ms" if ns < 1_000_000_000 else f"{ns / 1e9:.2f} s"


def _verdict(result: LoadResult) -> str:
    """Why a load is no success."""
    wrong = []
    if result.end == "stuck":
        wrong.append(f"no answer any more; {result.in_flight} I/Os are in flight")
    elif result.end not in ("done", "stopped"):
        wrong.append(f"ended by {result.end}: {result.error}")
    if result.errors:
        wrong.append(f"{result.errors} I/Os failed, the first at {result.first_error}")
    if result.mismatch is not None:
        first = result.mismatch
        wrong.append(
            f"{result.mismatches} units have wrong content, the first at sector {first.sector}, "
            f"byte {first.bad_offset}: {first.kind} (write {first.expected_sequence} expected, "
            f"found write {first.found_sequence} of sector {first.found_sector})"
        )
    return "guest io: " + "; ".join(wrong)


class _Progress:
    """Where a load is, on one line of the terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = self._last = time.monotonic()
        self._done = 0

    def show(self, progress: Progress) -> None:
        """Show the counters and the rate since the last time."""
        now, done = time.monotonic(), progress.reads + progress.writes
        rate = (done - self._done) / max(now - self._last, 1e-3)
        self._last, self._done = now, done
        moved = self._console.size(progress.read_bytes + progress.write_bytes)
        wrong = progress.errors + progress.mismatches
        self._console.live(
            f"{self._console.duration(now - self._start)}  {self._console.amount(rate)} IOPS  "
            f"{moved}{f', {wrong} BAD' if wrong else ''}"
        )
