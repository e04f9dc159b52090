# SPDX-License-Identifier: MIT
"""`xenbackd guest io` and `guest dd`: load with figures, and a disk's content out or in."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from shared.errors import ConfigError, HostError
from supervisor.cli import output
from supervisor.cli.parsers import add_json
from supervisor.cli.text import amount, duration, size

if TYPE_CHECKING:
    from embedded.guest.client import GuestClient
    from worker.devices.block.guest.load import Latency, LoadConfig, LoadResult, Progress

SECTOR: Final = 512
_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}

Add = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]


def add_parsers(add: Add) -> None:
    """Add `io` and `dd` below `guest`."""
    io = add("io", _io, "load a disk and print the figures")
    io.add_argument("name", metavar="NAME")
    io.add_argument("disk", metavar="DISK")
    io.add_argument(
        "--rw",
        choices=["read", "write", "randread", "randwrite", "randrw"],
        default="randread",
        help="pattern (default %(default)s); whatever writes destroys the disk's content",
    )
    io.add_argument("--bs", type=bytes_of, default=4096, metavar="N", help="bytes of one I/O (4k)")
    io.add_argument("--iodepth", type=int, default=1, metavar="N", help="I/Os in flight (1)")
    io.add_argument("--runtime", type=float, default=0.0, metavar="S", help="seconds")
    io.add_argument("--total", type=bytes_of, default=0, metavar="N", help="bytes to move at most")
    io.add_argument("--offset", type=bytes_of, default=0, metavar="N", help="where to start")
    io.add_argument("--size", type=bytes_of, default=0, metavar="N", help="length of the region")
    io.add_argument(
        "--read-percent", type=int, default=50, metavar="P", help="reads in randrw (50)"
    )
    io.add_argument("--verify", action="store_true", help="compare all content that was written")
    io.add_argument(
        "--poll-us", type=int, default=0, metavar="N", help="guest watches the ring so long (0)"
    )
    io.add_argument("--stall", type=float, default=30.0, metavar="S", help=argparse.SUPPRESS)
    io.add_argument("--seed", type=int, default=0x5EED, metavar="N", help="of the random pattern")
    add_json(io)
    dd = add("dd", _dd, "copy a disk's content to a file or from one")
    dd.add_argument("name", metavar="NAME")
    dd.add_argument("disk", metavar="DISK")
    way = dd.add_mutually_exclusive_group(required=True)
    way.add_argument("--to", type=Path, metavar="FILE", help="write the disk's content there")
    way.add_argument("--from", dest="source", type=Path, metavar="FILE", help="read it from there")
    dd.add_argument(
        "--skip", type=bytes_of, default=0, metavar="N", help="bytes to skip of what is read"
    )
    dd.add_argument(
        "--seek", type=bytes_of, default=0, metavar="N", help="bytes to skip of what is written"
    )
    dd.add_argument("--count", type=bytes_of, default=0, metavar="N", help="bytes (all)")


def bytes_of(text: str) -> int:
    """`4096`, `4k`, `1M`, `2G`: bytes, in powers of 1024."""
    digits = text.rstrip("kKmMgGtT")
    unit = text[len(digits) :].lower()
    if not digits.isascii() or not digits.isdecimal() or unit not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text!r}: expected bytes, as 4096, 4k or 1M")
    return int(digits) * _UNITS[unit]


# --- io --------------------------------------------------------------------------------------


def _io(args: argparse.Namespace) -> int:
    from supervisor.cli.guest import find

    config = _config(args)
    guest = find(args)
    line = None if args.json or not sys.stderr.isatty() else _Line()
    with guest.client() as client:
        result = client.io(args.disk, config, line.load if line else None)
    if line:
        line.clear()
    if args.json:
        import msgspec

        figures = msgspec.to_builtins(result)
        output.print_json(
            {**figures, "ok": result.ok, "iops": result.iops, "bandwidth": result.bandwidth}
        )
    else:
        _print(
            result, f"{guest.name} {args.disk}: {args.rw}, {size(args.bs)}, depth {args.iodepth}"
        )
    return 0 if result.ok else output.fail(_verdict(result))


def _config(args: argparse.Namespace) -> LoadConfig:
    import msgspec

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


def _print(result: LoadResult, title: str) -> None:
    columns: list[str | output.Column] = [
        "",
        output.Column("I/Os", right=True),
        output.Column("IOPS", right=True),
    ]
    columns += [output.Column(name, right=True) for name in ("RATE", "p50", "p99", "p99.9", "MAX")]
    rows = []
    for name, count, moved, latency in (
        ("read", result.reads, result.read_bytes, result.read_latency),
        ("write", result.writes, result.write_bytes, result.write_latency),
    ):
        if count:
            rates = [amount(count / result.elapsed), f"{size(moved / result.elapsed)}/s"]
            rows.append([name, str(count), *rates, *_times(latency)])
    if rows:
        output.table(title, columns, rows)
    else:
        output.show([output.Cell(f"{title}: no I/O was completed")])
    done = result.reads + result.writes
    cpu = f", guest CPU {result.cpu / done * 1e6:.2f} us per I/O" if done else ""
    lines = [f"{duration(result.elapsed)}{cpu}, {result.notifies} notifications sent"]
    if result.verified or result.unverified:
        lines.append(
            f"verified {result.verified} units, {result.mismatches} wrong, "
            f"{result.unverified} of unknown content"
        )
    output.show([output.Cell(line) for line in lines])


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


class _Line:
    """One line on the terminal that is written over and over."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()
        self._done = 0

    def load(self, progress: Progress) -> None:
        """Show where a load is."""
        now, done = time.monotonic(), progress.reads + progress.writes
        rate = (done - self._done) / max(now - self._last, 1e-3)
        self._last, self._done = now, done
        moved = progress.read_bytes + progress.write_bytes
        bad = (
            f", {progress.errors + progress.mismatches} BAD"
            if progress.errors + progress.mismatches
            else ""
        )
        self._write(f"{duration(now - self._start)}  {amount(rate)} IOPS  {size(moved)}{bad}")

    def copy(self, moved: int, total: int) -> None:
        """Show where a copy is."""
        now = time.monotonic()
        if now - self._last >= 0.1:
            self._last = now
            self._write(f"{size(moved)} of {size(total)}")

    def clear(self) -> None:
        """Leave nothing of it."""
        self._write("")

    def _write(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


# --- dd --------------------------------------------------------------------------------------


def _dd(args: argparse.Namespace) -> int:
    from supervisor.cli.guest import find

    guest = find(args)
    line = _Line() if sys.stderr.isatty() else None
    start = time.monotonic()
    with guest.client() as client:
        if args.to is not None:
            moved = _copy_out(client, args, line)
        else:
            moved = _copy_in(client, args, line)
    if line:
        line.clear()
    seconds = time.monotonic() - start
    way = f"{args.disk} -> {args.to}" if args.to is not None else f"{args.source} -> {args.disk}"
    sys.stderr.write(
        f"{way}: {moved} bytes in {seconds:.2f} s, {size(moved / max(seconds, 1e-6))}/s\n"
    )
    return 0


def _copy_out(client: GuestClient, args: argparse.Namespace, line: _Line | None) -> int:
    total = args.count or _disk_size(client, args.disk) - args.skip
    moved = 0
    with _opened(args.to, "r+b" if args.to.exists() and args.seek else "wb") as file:
        if args.seek:
            file.seek(args.seek)
        for chunk in client.read_out(args.disk, args.skip, args.count):
            file.write(chunk)
            moved += len(chunk)
            if line:
                line.copy(moved, total)
    return moved


def _copy_in(client: GuestClient, args: argparse.Namespace, line: _Line | None) -> int:
    with _opened(args.source, "rb") as file:
        length = file.seek(0, 2) - args.skip
        file.seek(args.skip)
        count = args.count or length
        if count > length or count <= 0:
            raise ConfigError(f"guest dd: {args.source}: there are {max(length, 0)} bytes to copy")
        # A disk takes whole sectors: the last one is filled up with zeros.
        whole = -(-count // SECTOR) * SECTOR
        client.write_in(args.disk, args.seek, whole, _chunks(file, count, whole, line))
    return int(count)


def _chunks(file: BinaryIO, count: int, whole: int, line: _Line | None) -> Iterator[bytes]:
    left = count
    while left:
        data = file.read(min(left, 1 << 20))
        if not data:
            raise HostError("guest dd: the file became shorter while it was read")
        left -= len(data)
        if line:
            line.copy(count - left, count)
        yield data
    yield bytes(whole - count)


def _disk_size(client: GuestClient, name: str) -> int:
    disks = client.disks().disks
    return next((d.size for d in disks if name in (d.vdev, str(d.devid))), 0)


def _opened(path: Path, mode: str) -> BinaryIO:
    try:
        return path.open(mode)  # type: ignore[return-value]  # binary by every mode given
    except OSError as error:
        raise ConfigError(f"guest dd: {path}: {error.strerror}") from error
