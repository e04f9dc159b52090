# SPDX-License-Identifier: MIT
"""The manifest of the type `block`: disks over blkif (xen/include/public/io/blkif.h).

Kinds: libxl writes `vbd` for backendtype phy, `vbd3` for tap (Xen 4.19 and newer) and `qdisk` for
qdisk. Nodes and flags are those of blkif.h.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from shared.device_types import (
    INT,
    LONG,
    Argument,
    Call,
    Counter,
    DeviceType,
    Group,
    Kind,
    ioctls,
    plain,
)

RING_GRANTS: Final = 32 * 11
"""Pages that the requests of a ring of one page can use at once: slots by segments (blkif.h)."""

SECTOR: Final = 512
"""Bytes of blkif's unit, whatever the sector size of the image is."""


class BlockOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of a disk."""

    engine: Literal["auto", "sync"] = "auto"
    """auto: what the page cache holds is served at once, what would block goes to I/O threads.
    sync: everything in the ring loop itself."""
    io_threads: Annotated[int, Meta(ge=1, le=64)] = 4
    poll_us: Annotated[int, Meta(ge=0, le=1_000_000)] = 50
    """Microseconds an empty ring is watched before the worker sleeps; 0 never polls. The time
    adapts between 0 and this, so an idle disk costs nothing."""
    grants: Literal["persistent", "copy", "sealed"] = "persistent"
    """persistent: keep the guest's data pages mapped if the frontend can; copy: always copy;
    sealed: as persistent, and once the frontend has used as many pages as its ring can hold at
    once the worker gives up mapping and copying for ever; the next connection gets a new one. Its
    rings are kept as small as max_persistent_grants asks for."""
    max_persistent_grants: Annotated[int, Meta(ge=0, le=65536)] = 1056
    max_ring_page_order: Annotated[int, Meta(ge=0, le=4)] = 4
    journal: bool = True
    """Keep what is in flight in a file beside the worker, so that answers need not wait for older
    ones and a successor knows exactly what is left to do. off: answers go in ring order. Counts
    from a frontend's next connection on."""
    flush: bool = True
    discard: bool = True
    direct_io: bool = False
    """Open images with O_DIRECT, past the page cache."""
    directories: list[str] = []
    """Images must lie below one of these, links resolved; empty: anywhere."""

    def __post_init__(self) -> None:
        if self.grants == "sealed" and self.max_persistent_grants < RING_GRANTS:
            raise ValueError(f"grants: sealed needs max_persistent_grants of {RING_GRANTS} or more")

    @property
    def ring_page_order(self) -> int:
        """Largest ring that is offered, as a power of two of pages."""
        order = self.max_ring_page_order
        while self.grants == "sealed" and RING_GRANTS << order > self.max_persistent_grants:
            order -= 1
        return order


_BEYOND_JOURNALS: Final = LONG & ~0x1FFFF
"""Bits that no length of a journal has: the longest is 65,728 bytes (native/blk_journal.h)."""
_SECCOMP_SET_MODE_FILTER: Final = 1
_SECCOMP_TSYNC: Final = (1, 3)  # alone and with SECCOMP_FILTER_FLAG_LOG
_PUNCH_HOLE: Final = 0x3  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE

_SYSTEM_CALLS: Final = (
    Group(
        "requests of the guest",
        (
            *plain("preadv2 pwritev2 preadv pwritev fdatasync"),
            Call(
                "fallocate",
                (Argument(1, (_PUNCH_HOLE,), INT),),
                "FALLOC_FL_PUNCH_HOLE and FALLOC_FL_KEEP_SIZE: discard",
            ),
            *ioctls(BLKDISCARD=0x1277),
        ),
    ),
    Group(
        "size of the image, which may have grown",
        (
            *plain("fstatfs"),
            *ioctls(BLKGETSIZE64=0x80081272, BLKSSZGET=0x1268, BLKPBSZGET=0x127B),
        ),
    ),
    Group(
        "the journal of a new connection",
        (
            Call("ftruncate", (Argument(1, (0,), _BEYOND_JOURNALS),), "below 128 KiB"),
            Call(
                "fallocate",
                (
                    Argument(1, (0,), INT),
                    Argument(2, (0,)),
                    Argument(3, (0,), _BEYOND_JOURNALS),
                ),
                "without flags, the first 128 KiB",
            ),
        ),
    ),
    Group(
        "grants: sealed: a second filter, which can only forbid more",
        (
            Call(
                "seccomp",
                (Argument(0, (_SECCOMP_SET_MODE_FILTER,), INT), Argument(1, _SECCOMP_TSYNC)),
                "SECCOMP_SET_MODE_FILTER for all threads",
            ),
        ),
    ),
)

_COUNTERS: Final = (
    Counter("rd_req", "reads answered", "reads", role="read"),
    Counter("rd_sect", "data read", "reads", scale=SECTOR, role="bytes"),
    Counter("wr_req", "writes answered", "writes", role="written"),
    Counter("wr_sect", "data written", "writes", scale=SECTOR, role="bytes"),
    Counter("f_req", "flushes answered", "flushes", role="finished"),
    Counter("ds_req", "discards answered", "discards", role="finished"),
    Counter("ds_sect", "data discarded", "discards", scale=SECTOR),
    Counter("bad_operation", "operations that are unknown or not offered", "refused requests"),
    Counter("bad_segments", "impossible numbers or ranges of segments", "refused requests"),
    Counter("bad_range", "ranges beyond the end of the disk", "refused requests"),
    Counter("bad_alignment", "ranges not aligned to the sector size", "refused requests"),
    Counter("bad_discard", "discards without a length, or secure ones", "refused requests"),
    Counter("read_only", "writes to a read-only disk", "refused requests"),
    Counter("grant_errors", "requests whose pages could not be had", "grants"),
    Counter("grant_maps", "calls that mapped pages", "grants"),
    Counter("grant_copies", "calls that copied pages", "grants"),
    Counter("persistent_grants", "pages that stay mapped", "grants"),
    Counter("io_errors", "requests that the image failed", "I/O"),
    Counter("short_io", "requests that the image ended early", "I/O"),
    Counter("last_errno", "errno of the last failure", "I/O"),
    Counter("io_threads", "I/O threads running", "I/O"),
    Counter("poll_hits", "watches of an empty ring that paid", "polling"),
    Counter("poll_misses", "watches of an empty ring that did not", "polling"),
    Counter("notifies", "events sent to the guest"),
    Counter("notify_errors", "events that could not be sent"),
    Counter("wakeups", "times the worker was woken"),
    Counter("stray_events", "events of ports that are not ours"),
    Counter("batches", "batches taken from the ring"),
    Counter("pooled", "requests given to an I/O thread"),
    Counter("merged", "requests that shared a call with a neighbour"),
    Counter("in_flight", "requests in hand", role="pending"),
    Counter("reissued", "requests of a dead worker that were run again"),
    Counter("reanswered", "requests of a dead worker that were answered again"),
    Counter("poisoned", "requests given up after deaths of workers"),
)

TYPE: Final = DeviceType(
    name="block",
    backend="worker.devices.block.backend:BlockDevice",
    options=BlockOptions,
    kinds=(
        Kind("vbd", kernel_driver="xen_blkback", script=True),
        Kind("vbd3", script=True),
        Kind("qdisk", device_model=True),
    ),
    publishes=(
        "discard-*",
        "sectors",
        "sector-size",
        "physical-sector-size",
        "info",
    ),
    reserved=("params", "mode"),
    drain=30.0,  # a disk has writes to finish
    journals=True,
    system_calls=_SYSTEM_CALLS,
    native_modules=("worker.devices.block.native._block",),
    kernel_features={
        "RWF_NOWAIT": "cached data is served by I/O threads instead",
        "io_uring": "disks are served by I/O threads instead",
    },
    counters=_COUNTERS,
    guest="worker.devices.block.guest.side:GUEST",
    guest_modules=("worker.devices.block.guest.native._front",),
)
