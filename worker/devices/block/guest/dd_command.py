# SPDX-License-Identifier: MIT
"""`xenbackd guest dd`: a disk's content out or in, through the ring."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from embedded.guest.console import Console
from shared.errors import ConfigError, HostError
from worker.devices.block.about import SECTOR
from worker.devices.block.guest.sizes import bytes_of

if TYPE_CHECKING:
    from worker.devices.block.guest.client import RemoteDisk

CHUNK: Final = 1 << 20
SHOW_EVERY: Final = 0.1
"""Seconds between two looks at where a copy is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what comes after the guest's name."""
    parser.add_argument("disk", metavar="DISK")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--to", type=Path, metavar="FILE", help="write the disk's content there")
    way.add_argument("--from", dest="source", type=Path, metavar="FILE", help="read it from there")
    parser.add_argument(
        "--skip", type=bytes_of, default=0, metavar="N", help="bytes to skip of what is read"
    )
    parser.add_argument(
        "--seek", type=bytes_of, default=0, metavar="N", help="bytes to skip of what is written"
    )
    parser.add_argument("--count", type=bytes_of, default=0, metavar="N", help="bytes (all)")


def run(args: argparse.Namespace, console: Console) -> int:
    """Copy and say how long it took."""
    from embedded.guest.launch import find_guest
    from worker.devices.block.guest.client import RemoteDisk

    guest = find_guest(args.embedded_dir, args.name)
    progress = _Progress(console)
    start = time.monotonic()
    with guest.client() as client:
        disk = RemoteDisk(client, args.disk)
        moved = (_copy_out if args.to is not None else _copy_in)(disk, args, progress)
    console.live("")
    seconds = time.monotonic() - start
    way = f"{args.disk} -> {args.to}" if args.to is not None else f"{args.source} -> {args.disk}"
    rate = console.size(moved / max(seconds, 1e-6))
    console.note(f"{way}: {moved} bytes in {seconds:.2f} s, {rate}/s")
    return 0


def _copy_out(disk: RemoteDisk, args: argparse.Namespace, progress: _Progress) -> int:
    total = args.count or disk.size - args.skip
    moved = 0
    with _opened(args.to, "r+b" if args.to.exists() and args.seek else "wb") as file:
        if args.seek:
            file.seek(args.seek)
        for chunk in disk.read_out(args.skip, args.count):
            file.write(chunk)
            moved += len(chunk)
            progress.show(moved, total)
    return moved


def _copy_in(disk: RemoteDisk, args: argparse.Namespace, progress: _Progress) -> int:
    with _opened(args.source, "rb") as file:
        length = file.seek(0, 2) - args.skip
        file.seek(args.skip)
        count = args.count or length
        if count > length or count <= 0:
            raise ConfigError(f"guest dd: {args.source}: there are {max(length, 0)} bytes to copy")
        # A disk takes whole sectors: the last one is filled up with zeros.
        whole = -(-count // SECTOR) * SECTOR
        disk.write_in(args.seek, whole, _chunks(file, count, whole, progress))
    return int(count)


def _chunks(file: BinaryIO, count: int, whole: int, progress: _Progress) -> Iterator[bytes]:
    left = count
    while left:
        data = file.read(min(left, CHUNK))
        if not data:
            raise HostError("guest dd: the file became shorter while it was read")
        left -= len(data)
        progress.show(count - left, count)
        yield data
    yield bytes(whole - count)


def _opened(path: Path, mode: str) -> BinaryIO:
    try:
        return path.open(mode)  # type: ignore[return-value]  # binary by every mode given
    except OSError as error:
        raise ConfigError(f"guest dd: {path}: {error.strerror}") from error


class _Progress:
    """Where a copy is, on one line of the terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = time.monotonic()

    def show(self, moved: int, total: int) -> None:
        """Show it, but not for every chunk."""
        now = time.monotonic()
        if now - self._last >= SHOW_EVERY:
            self._last = now
            size = self._console.size
            self._console.live(f"{size(moved)} of {size(total)}")
