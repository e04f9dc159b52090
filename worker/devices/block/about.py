# SPDX-License-Identifier: MIT
"""The manifest of the type `block`: disks over blkif (xen/include/public/io/blkif.h).

Kinds: libxl writes `vbd` for backendtype phy, `vbd3` for tap (Xen 4.19 and later) and `qdisk` for
qdisk. blkif.h defines the nodes and flags.
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
"""Pages that the requests of a one-page ring can use at once: slots times segments (blkif.h)."""

SECTOR: Final = 512
"""Bytes of blkif's unit, which does not depend on the sector size of the image."""


class BlockOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of a disk."""

    engine: Literal["auto", "sync"] = "auto"
    """auto: requests for data in the page cache are served at once, those that would block go to
    I/O threads. sync: all requests run in the ring loop."""
    io_threads: Annotated[int, Meta(ge=1, le=64)] = 4
    """I/O threads at most; the first requests that need them start them."""
    poll_us: Annotated[int, Meta(ge=0, le=1_000_000)] = 50
    """Microseconds that the worker watches an empty ring before it sleeps. The time adapts between
    0 and this value, so an idle disk costs nothing. 0: never watch."""
    grants: Literal["persistent", "copy", "sealed"] = "persistent"
    """persistent: keep the guest's data pages mapped if the frontend supports that. copy: always
    copy. sealed: like persistent, but once the frontend has used as many pages as its ring can hold
    at once, the worker gives up mapping and copying for good. The next connection then gets a new
    worker, and max_persistent_grants limits the size of the rings on offer."""
    max_persistent_grants: Annotated[int, Meta(ge=0, le=65536)] = 1056
    """Pages of the guest kept mapped at most."""
    max_ring_page_order: Annotated[int, Meta(ge=0, le=4)] = 4
    """The ring has at most 2^order pages."""
    journal: bool = True
    """true: keep a record of the requests in flight in a file, so that answers need not wait for
    older ones and a successor knows exactly what is left to do. false: answer in ring order. A
    change takes effect at the frontend's next connection."""
    flush: bool = True
    """Offer flush, without which a guest cannot make its data durable."""
    discard: bool = True
    """Offer discard."""
    direct_io: bool = False
    """Open images with O_DIRECT, which bypasses the page cache."""
    directories: list[str] = []
    """Images must lie below one of these directories, after links are resolved. Empty: anywhere."""

    def __post_init__(self) -> None:
        if self.grants == "sealed" and self.max_persistent_grants < RING_GRANTS:
            raise ValueError(f"grants: sealed needs max_persistent_grants of {RING_GRANTS} or more")

    @property
    def ring_page_order(self) -> int:
        """The largest ring on offer: 2 to this power pages."""
        order = self.max_ring_page_order
        while self.grants == "sealed" and RING_GRANTS << order > self.max_persistent_grants:
            order -= 1
        return order


_BEYOND_JOURNALS: Final = LONG & ~0x1FFFF
"""Bits that are zero in the length of every journal: the longest has 65,728 bytes
(native/blk_journal.h)."""
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
    reserved=("discard-enable",),
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
