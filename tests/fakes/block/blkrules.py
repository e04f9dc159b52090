# SPDX-License-Identifier: MIT
"""The rules of blkif a second time, in Python, to hold the parser in C against.

Written from the interface (xen/include/public/io/blkif.h) and not from that parser, so where the
two differ one of them is wrong. Knows nothing of grants: what is refused for its pages is not said.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.fakes.block.blk import (
    BARRIER,
    DISCARD,
    EOPNOTSUPP,
    ERROR,
    FLUSH,
    INDIRECT,
    OKAY,
    READ,
    WRITE,
    FakeDisk,
    Layout,
)

TOP = 1 << 64
WILD_PAGES = 64
NAMES = {READ: "read", WRITE: "write", FLUSH: "flush", DISCARD: "discard"}


@dataclass(frozen=True)
class Rules:
    """What was offered to the guest."""

    sectors: int = 128
    """Of 512 bytes."""
    sector_size: int = 512
    read_only: bool = False
    flush: bool = True
    discard: bool = True

    @property
    def options(self) -> dict[str, Any]:
        """The same for `struct blk_config`."""
        names = ("sector_size", "read_only", "flush", "discard")
        return {name: int(getattr(self, name)) for name in names}


@dataclass(frozen=True)
class Verdict:
    """What becomes of a request whose pages are all right."""

    status: int
    call: tuple[str, int, int] | None = None
    """What the disk is asked for: operation, offset and length in bytes."""


def judge(raw: bytes, layout: Layout, rules: Rules) -> Verdict:
    """The verdict over a slot as the guest wrote it."""
    operation, count = raw[0], raw[1]
    offered = {READ: True, WRITE: True, FLUSH: rules.flush, DISCARD: rules.discard}
    if not offered.get(operation, False):
        return Verdict(EOPNOTSUPP)
    if operation == FLUSH:
        return Verdict(ERROR) if count else Verdict(OKAY, ("flush", 0, 0))
    (sector,) = struct.unpack_from("<Q", raw, layout.sector)
    if operation == DISCARD:
        (length,) = struct.unpack_from("<Q", raw, layout.segments)
        fine = count == 0 and length > 0  # byte 1: secure discard
    else:
        length, fine = _data_length(raw, layout, count)
    if operation != READ and rules.read_only:
        fine = False
    unit = rules.sector_size // 512
    if sector + length > rules.sectors or sector % unit or length % unit:
        fine = False
    if not fine:
        return Verdict(ERROR)
    return Verdict(OKAY, (NAMES[operation], sector * 512, length * 512))


def _data_length(raw: bytes, layout: Layout, count: int) -> tuple[int, bool]:
    """Sectors that the segments hold, and whether all of them lie in their pages."""
    if not 1 <= count <= 11:
        return 0, False
    spans = [raw[layout.segments + 8 * i + 4 :][:2] for i in range(count)]
    fine = all(first <= last <= 7 for first, last in spans)
    return sum(last - first + 1 for first, last in spans), fine


class RecordingDisk(FakeDisk):
    """Notes operation, offset and length of every call."""

    def __init__(self, size: int = 64 * 1024) -> None:
        self.seen: list[tuple[str, int, int]] = []
        super().__init__(size)

    def _move(
        self, operation: str, context: object, vector: object, count: int, offset: int, nowait: int
    ) -> int:
        moved = super()._move(operation, context, vector, count, offset, nowait)
        self.seen.append((operation, offset, moved))
        return moved

    def _begin(self, operation: str, offset: int, nowait: int) -> int:
        if operation == "flush":
            self.seen.append((operation, 0, 0))
        return super()._begin(operation, offset, nowait)

    def _discard(self, context: object, offset: int, length: int) -> int:
        self.seen.append(("discard", offset, length))
        return super()._discard(context, offset, length)


def wild_requests(
    layout: Layout, rules: Rules, count: int, seed: int, first_ref: int = 100
) -> Iterator[bytes]:
    """Slots of which each field is good, just not good, far off or anything, by chance.

    `WILD_PAGES` references from `first_ref` on must be granted; `bench` does that from 100 on. The
    id is any number, and comes again now and then.
    """
    chance = random.Random(seed)
    end = rules.sectors
    operations = [READ] * 4 + [WRITE] * 4 + [DISCARD] * 3 + [FLUSH, BARRIER, 4, INDIRECT, 7, 255]
    counts = [1] * 6 + [2, 3, 8, 11, 0, 12, 128, 255]
    edges = [(0, 7)] * 6 + [(0, 0), (7, 7), (3, 4), (4, 3), (0, 8), (8, 8), (7, 0), (255, 255)]
    sectors = [0, 1, 4, 8, 16, 64, end - 8, end - 1, end, end + 1]
    far = [TOP - 1, TOP - 7, TOP - 8, 1 << 55, 1 << 63, (1 << 63) - 1, 1 << 32]
    ident = 0
    for _ in range(count):
        raw = bytearray(chance.randbytes(layout.slot))
        ident = ident if chance.random() < 0.1 else chance.getrandbits(64)
        struct.pack_into("<Q", raw, layout.id, ident)
        raw[0] = chance.choice(operations)
        discard = raw[0] == DISCARD
        raw[1] = chance.choice([0, 0, 0, 1, 0x80] if discard else counts)
        if raw[0] == FLUSH:
            raw[1] = chance.choice([0, 0, 1])
        sector = chance.choice(far if chance.random() < 0.1 else sectors)
        struct.pack_into("<Q", raw, layout.sector, sector)
        for i in range(11):
            ref = first_ref + chance.randrange(WILD_PAGES)
            struct.pack_into("<IBB", raw, layout.segments + 8 * i, ref, *chance.choice(edges))
        if discard:
            length = chance.choice([*far, 0, 1, 8, 16, end - 8, end, end + 1])
            struct.pack_into("<Q", raw, layout.segments, length)
        yield bytes(raw)
