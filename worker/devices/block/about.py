# SPDX-License-Identifier: MIT
"""Options of the `block` handler (`types.<type>.options` in the file)."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

RING_GRANTS: Final = 32 * 11
"""Pages that the requests of a ring of one page can use at once: slots by segments (blkif.h)."""


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
