# SPDX-License-Identifier: MIT
"""Options of the `block` handler (`types.<type>.options` in the file)."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class BlockOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of a disk."""

    engine: Literal["auto", "sync"] = "auto"
    """auto: what the page cache holds is served at once, what would block goes to I/O threads.
    sync: everything in the ring loop itself."""
    io_threads: Annotated[int, Meta(ge=1, le=64)] = 4
    poll_us: Annotated[int, Meta(ge=0, le=1_000_000)] = 50
    """Microseconds an empty ring is watched before the worker sleeps; 0 never polls. The time
    adapts between 0 and this, so an idle disk costs nothing."""
    grants: Literal["persistent", "copy"] = "persistent"
    """persistent: keep the guest's data pages mapped if the frontend can; copy: always copy."""
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
