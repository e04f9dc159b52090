# SPDX-License-Identifier: MIT
"""A frontend ring over memory of this process, with the RAM disk in C behind it."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self

from worker.devices.block.about import SECTOR
from worker.devices.block.guest.native._front import ffi, lib
from worker.devices.block.guest.ring import FrontRing

PAGE: Final = 4096
RING_FRAME: Final = 8
FIRST_REF: Final = 8
FIRST_FRAME: Final = 32
ENTRIES: Final = 4096


class Loop:
    """Ring, data pages and disk; a context manager. `faults` are fields of loopback_params."""

    def __init__(
        self,
        *,
        order: int = 1,
        bits: int = 64,
        sectors: int = 2048,
        pages: int = 128,
        persistent: bool = True,
        first_index: int = 0,
        poll_us: int = 20,
        faults: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        total = FIRST_FRAME + pages
        self.sectors = sectors
        self._memory = mmap.mmap(-1, total * PAGE)
        self._view = ffi.from_buffer("uint8_t[]", self._memory)
        base = int(ffi.cast("uintptr_t", self._view))
        params: Any = ffi.new("struct loopback_params *")
        params.ring = self._view + RING_FRAME * PAGE
        params.memory = params.grant_entries = self._view
        for name, value in {
            "order": order,
            "bits": bits,
            "memory_pages": total,
            "grant_count": ENTRIES,
            "sectors": sectors,
            "poll_ns": poll_us * 1000,
            **faults,
        }.items():
            setattr(params, name, value)
        # The RAM disk starts where the ring says, so the ring's index is there before it.
        struct.pack_into("=4I", self._memory, RING_FRAME * PAGE, *[first_index] * 4)
        self._loop = lib.loopback_start(params)
        self.ring = FrontRing(
            ring=base + RING_FRAME * PAGE,
            order=order,
            bits=bits,
            grant_table=base,
            grant_count=ENTRIES,
            ops=int(ffi.cast("uintptr_t", lib.loopback_ops(self._loop))),
            port=1,
            persistent=persistent,
            first_index=first_index,
        )
        refs = range(FIRST_REF, FIRST_REF + pages)
        frames = range(FIRST_FRAME, total)
        for ref, frame in zip(refs, frames, strict=True):
            if persistent:
                self.write_entry(ref, 1, frame)
        self.ring.add_pages([base + frame * PAGE for frame in frames], refs, frames)

    def write_entry(self, ref: int, flags: int, frame: int) -> None:
        """Write a grant entry as the domain would."""
        struct.pack_into("=HHI", self._memory, ref * 8, flags, 0, frame)

    def entries(self) -> list[int]:
        """Flags of all entries that are in use."""
        flags = (struct.unpack_from("=H", self._memory, ref * 8)[0] for ref in range(8, 512))
        return [value for value in flags if value]

    @property
    def disk(self) -> Any:
        """The disk's content, writable."""
        return ffi.buffer(lib.loopback_disk(self._loop), self.sectors * SECTOR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        lib.loopback_stop(self._loop)
        self.ring.close()
        ffi.release(self._view)
        self._memory.close()
