# SPDX-License-Identifier: MIT
"""A living domain seen from inside: its memory, grant table and event channels.

This is what guests are written with. The domain lives as long as a process holds its lifeline: the
one that made it, or one that got `descriptors` by fork or exec and adopted it. Nothing is checked
on the way to the guest's own memory: a hostile guest writes what it likes, and `memory` and
`write_grant_entry` are all it needs.

Frames and references are handed out from lists, each in constant time. The lists belong to this
object: of several processes in one domain only one may allocate. Not thread-safe, except that
`notify` may be called from any thread.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from embedded.handles import EmbeddedEventChannels, EmbeddedGrantTable, EmbeddedHandle
from embedded.hypercalls import Hypercalls
from embedded.native._embedded import ffi, lib
from embedded.protocol import (
    ANY_DOMID,
    DEFAULT_PAGES,
    FIRST_FRAME,
    FIRST_REF,
    GRANT_ENTRIES,
    GRANT_ENTRY,
    GRANT_FRAME,
    PAGE_SIZE,
    GrantFlags,
)
from shared.errors import HostError
from shared.hypervisor.interface import GrantRef, Port

_GRANT_TABLE: Final = GRANT_FRAME * PAGE_SIZE


class Domain:
    """One living domain.

    Attributes:
        domid: its id.
        memory: all its memory as bytes, frame 0 first.
        address: where that memory begins, for native code.
        event_channels: its event-channel handle.
        grant_table: its grant-table handle, for mapping what others grant to it.
    """

    def __init__(self, directory: Path, domid: int, lifeline: int, memory: int) -> None:
        self.directory = directory
        self.domid = domid
        self._descriptors = (lifeline, memory)
        self._map = mmap.mmap(memory, os.fstat(memory).st_size)
        self.memory = memoryview(self._map)
        self._base = ffi.from_buffer(self.memory)
        self.address = int(ffi.cast("uintptr_t", self._base))
        self._fresh_frame = FIRST_FRAME
        self._pages = len(self.memory) // PAGE_SIZE
        self._free_frames: list[int] = []
        # Taken from the end: the lowest reference first.
        self._free_refs = list(range(GRANT_ENTRIES - 1, FIRST_REF - 1, -1))
        self._closed = False
        handle = EmbeddedHandle(directory, domid)
        self.event_channels = EmbeddedEventChannels(handle)
        self.grant_table = EmbeddedGrantTable(handle)
        self._ops: Any = ffi.new("struct hv_ops *")
        lib.embedded_fill_ops(self._ops, handle.native, handle.native)

    @classmethod
    def create(
        cls,
        directory: Path,
        name: str = "",
        pages: int = DEFAULT_PAGES,
        domid: int | None = None,
    ) -> Self:
        """Bring a domain to life; it dies with `close` or with the process.

        Args:
            directory: of the embedded hypervisor.
            name: at most 64 ASCII characters.
            pages: size of its memory; the header and the grant table take 33 of them.
            domid: the id it must have; the next free one if None.

        Raises:
            HostError: no hypervisor there, or it refused; says why.
        """
        with Hypercalls(directory) as hypercalls:
            made = hypercalls.create_domain(name, pages, ANY_DOMID if domid is None else domid)
        return cls.adopt(made.lifeline, made.memory, directory, made.domid)

    @classmethod
    def adopt(cls, lifeline_fd: int, memory_fd: int, directory: Path, domid: int) -> Self:
        """Continue a domain from its descriptors, which are this object's from now on.

        All its memory counts as free, except grant entries that are in use.
        """
        try:
            return cls(directory, domid, lifeline_fd, memory_fd)
        except BaseException:
            os.close(lifeline_fd)
            os.close(memory_fd)
            raise

    @property
    def descriptors(self) -> tuple[int, int]:
        """Lifeline and memory: make them inheritable and give them to `adopt` elsewhere."""
        return self._descriptors

    @property
    def native_ops(self) -> int:
        """Address of the `struct hv_ops` of this domain; valid until `close`."""
        return int(ffi.cast("uintptr_t", self._ops))

    @property
    def grant_table_address(self) -> int:
        """Address of this domain's own grant entries, for native code."""
        return self.address + _GRANT_TABLE

    # --- memory --------------------------------------------------------------------------------

    def page(self, frame: int) -> memoryview:
        """One page as bytes; it still holds what its last user left there."""
        return self.memory[frame * PAGE_SIZE : (frame + 1) * PAGE_SIZE]

    def alloc_pages(self, count: int, *, contiguous: bool = False) -> list[int]:
        """Frames of free pages; raises HostError if there are not that many."""
        fresh = self._pages - self._fresh_frame
        if contiguous:
            if count > fresh:
                return self._alloc_run(count)
            return self._alloc_fresh(count)
        recycled = min(count, len(self._free_frames))
        if count - recycled > fresh:
            raise self._no_memory(count)
        frames = [self._free_frames.pop() for _ in range(recycled)]
        return frames + self._alloc_fresh(count - recycled)

    def free_pages(self, frames: Sequence[int]) -> None:
        """Give frames back; their grants must have ended."""
        self._free_frames.extend(frames)

    def _alloc_fresh(self, count: int) -> list[int]:
        first = self._fresh_frame
        self._fresh_frame += count
        return list(range(first, first + count))

    def _alloc_run(self, count: int) -> list[int]:
        self._free_frames.sort()
        free = self._free_frames
        for start in range(len(free) - count + 1):
            if free[start + count - 1] - free[start] == count - 1:
                run = free[start : start + count]
                del free[start : start + count]
                return run
        raise self._no_memory(count)

    def _no_memory(self, count: int) -> HostError:
        return HostError(f"allocate {count} pages: domain {self.domid}: no memory left")

    # --- grants --------------------------------------------------------------------------------

    def grant(self, frame: int, domid: int = 0, *, readonly: bool = False) -> GrantRef:
        """Grant a page to a domain; raises HostError if no reference is left."""
        while self._free_refs:
            ref = self._free_refs.pop()
            if self._flags(ref):
                continue  # in use since before we adopted this domain
            flags = GrantFlags.PERMIT_ACCESS | (GrantFlags.READONLY if readonly else 0)
            lib.embedded_grant_set(self._entry(ref), flags, domid, frame)
            return GrantRef(ref)
        raise HostError(f"grant page: domain {self.domid}: no reference left")

    def end_access(self, ref: int) -> bool:
        """Take a grant back; False, and nothing changed, while it is mapped."""
        if not lib.embedded_grant_end_access(self._entry(ref)):
            return False
        self._free_refs.append(ref)
        return True

    def write_grant_entry(self, ref: int, flags: int, domid: int, frame: int) -> None:
        """Write an entry as it is, however wrong; the reference stays out of the free list."""
        lib.embedded_grant_set(self._entry(ref), flags, domid, frame)

    def read_grant_entry(self, ref: int) -> tuple[GrantFlags, int, int]:
        """Flags, domid and frame of an entry."""
        flags, domid, frame = GRANT_ENTRY.unpack_from(
            self.memory, _GRANT_TABLE + ref * GRANT_ENTRY.size
        )
        return GrantFlags(flags), domid, frame

    def _flags(self, ref: int) -> int:
        return self.read_grant_entry(ref)[0]

    def _entry(self, ref: int) -> int:
        if not 0 <= ref < GRANT_ENTRIES:
            raise ValueError(f"no grant entry has reference {ref}")
        return self.address + _GRANT_TABLE + ref * GRANT_ENTRY.size

    # --- event channels ------------------------------------------------------------------------

    def alloc_port(self, remote_domid: int = 0) -> Port:
        """Make a port that domain `remote_domid` may bind to."""
        return self.event_channels.alloc_unbound(remote_domid)

    def close_port(self, port: Port) -> None:
        """Close a port; the peer's end becomes unbound."""
        self.event_channels.unbind(port)

    def notify(self, port: Port) -> None:
        """Send an event to the peer of a port."""
        self.event_channels.notify(port)

    def pending(self) -> Port | None:
        """Take one pending port, masked until `unmask`; None if there is none."""
        return self.event_channels.pending()

    def unmask(self, port: Port) -> None:
        """Let a port signal again."""
        self.event_channels.unmask(port)

    def fileno(self) -> int:
        """Readable while a port is pending and not masked."""
        return self.event_channels.fileno()

    # --- end -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the domain, which dies if nobody else holds its lifeline. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self.event_channels.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        ffi.release(self._base)
        # Views that are still held keep the memory mapped, as after a crash, until they are gone.
        with contextlib.suppress(BufferError):
            self.memory.release()
            self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
