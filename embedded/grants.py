# SPDX-License-Identifier: MIT
"""A domain's grant table as the hypervisor sees it: checking, pinning, counting.

The entries lie in the domain's memory, and the domain can write anything there at any time. So
the counts here say what is mapped, never the marks in the entries; those are for the domain to
see. Semantics as in xen/common/grant_table.c, version 1:

- an entry is checked and marked (GTF_reading, GTF_writing) by compare-and-swap, its frame read
  once; while it is mapped, further mappings get that same frame, even if the entry has changed;
- a read-write mapping needs an entry without GTF_readonly, even if it is mapped already;
- the marks are cleared with the last mapping, GTF_writing with the last writable one.

Does no I/O; the atomic accesses are in native code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from embedded.native._embedded import ffi, lib
from embedded.protocol import (
    GRANT_ENTRIES,
    GRANT_ENTRY,
    GrantFlags,
)
from shared.hypervisor.status import GrantStatus


@dataclass(slots=True)
class _Active:
    """One mapped entry: for whom, what, how often."""

    domid: int
    frame: int
    mappings: int = 0
    writable_mappings: int = 0


@dataclass(frozen=True, slots=True)
class Element:
    """Outcome of mapping one reference."""

    frame: int
    status: GrantStatus


class GrantTable:
    """Grant table of one domain.

    Args:
        entries: the table in the domain's memory, `GRANT_ENTRIES` entries.
        pages: size of the domain's memory; frames beyond its end are refused.
    """

    def __init__(self, entries: memoryview, pages: int) -> None:
        buffer = ffi.from_buffer(entries)
        self._buffer: object = buffer  # keeps the memory
        self._base = int(ffi.cast("uintptr_t", buffer))
        self._pages = pages
        self._frame = ffi.new("uint32_t *")
        self._active: dict[int, _Active] = {}
        self.mapped = 0
        """Pages mapped now, each mapping counted."""

    def close(self) -> None:
        """The domain died: nothing more can be mapped; what is mapped stays counted."""
        self._base = 0
        self._buffer = None

    def map(self, refs: Sequence[int], domid: int, *, writable: bool) -> tuple[bool, list[Element]]:
        """Map all references for domain `domid`, or none; the outcome of each."""
        elements = [self._map(ref, domid, writable) for ref in refs]
        good = all(element.status is GrantStatus.OKAY for element in elements)
        if not good:
            self.unmap(
                [ref for ref, at in zip(refs, elements, strict=True) if not at.status],
                writable=writable,
            )
        return good, elements

    def unmap(self, refs: Sequence[int], *, writable: bool) -> None:
        """Undo a successful `map` of these references."""
        for ref in refs:
            active = self._active[ref]
            active.mappings -= 1
            active.writable_mappings -= writable
            self.mapped -= 1
            marks = GrantFlags(0)
            if writable and not active.writable_mappings:
                marks |= GrantFlags.WRITING
            if not active.mappings:
                marks |= GrantFlags.READING
                del self._active[ref]
            if marks and self._base:
                lib.embedded_grant_unpin(self._address(ref), marks)

    def _map(self, ref: int, domid: int, writable: bool) -> Element:
        if not self._base:
            return Element(0, GrantStatus.BAD_DOMAIN)
        if ref >= GRANT_ENTRIES:
            return Element(0, GrantStatus.BAD_GNTREF)
        active = self._active.get(ref)
        if active is not None and active.domid != domid:
            return Element(0, GrantStatus.GENERAL_ERROR)
        if active is None or (writable and not active.writable_mappings):
            status = GrantStatus(
                lib.embedded_grant_pin(
                    self._address(ref), domid, writable, self._pages, self._frame
                )
            )
            if status is not GrantStatus.OKAY:
                return Element(0, status)
            if active is None:
                active = self._active[ref] = _Active(domid, self._frame[0])
        active.mappings += 1
        active.writable_mappings += writable
        self.mapped += 1
        return Element(active.frame, GrantStatus.OKAY)

    def _address(self, ref: int) -> int:
        return self._base + ref * GRANT_ENTRY.size
