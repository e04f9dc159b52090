# SPDX-License-Identifier: MIT
"""A hypervisor in one process, for the C data plane: `struct hv_ops` over ordinary memory.

The guest's memory is a memory file, so a granted page can really be mapped a second time; there is
one event channel, whose descriptor is an eventfd. Everything the code under test does is counted.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from typing import Any

from cffi import FFI

from shared.hypervisor.native._xen import ffi

PAGE = 4096
PORT = 7
OKAY, BAD_REF, DENIED = 0, -3, -8

_libc_ffi = FFI()
_libc_ffi.cdef("void *mmap(void *, size_t, int, int, int, int64_t); int munmap(void *, size_t);")
_libc: Any = _libc_ffi.dlopen(None)
_MAP_FIXED = 0x10


class FakeHypervisor:
    """Guest memory of `pages` pages, grants of them, and one port (`PORT`)."""

    def __init__(self, pages: int = 64) -> None:
        self._fd = os.memfd_create("guest")
        os.ftruncate(self._fd, pages * PAGE)
        self.memory = mmap.mmap(self._fd, pages * PAGE)
        self.grants: dict[int, tuple[int, bool]] = {}
        """Reference to (page number, writable)."""
        self.event = os.eventfd(0, os.EFD_NONBLOCK)
        self.waits = 0
        """How often the loop looked at its descriptors, or slept on them."""
        self.pending_ports: list[int] = []
        self.notified: list[int] = []
        self.unmasked: list[int] = []
        self.copies: list[int] = []
        """Elements of each copy call."""
        self.map_calls: list[tuple[list[int], bool]] = []
        self.mapped: dict[int, int] = {}
        """Address to number of pages of what is mapped now."""
        self.map_error = 0
        """errno with which every map fails, without a status."""
        self._base: Any = ffi.from_buffer(self.memory)
        self.ops = self._table()

    def _table(self) -> Any:
        callbacks: dict[str, tuple[str, Callable[..., object]]] = {
            "evtchn_fd": ("int(void *)", self._evtchn_fd),
            "notify": ("int(void *, uint32_t)", self._notify),
            "pending": ("int(void *)", self._pending),
            "unmask": ("int(void *, uint32_t)", self._unmask),
            "copy": ("int(void *, uint16_t, struct hv_copy *, uint32_t)", self._copy),
            "map": (
                "void *(void *, uint16_t, const uint32_t *, uint32_t, int, int16_t *)",
                self._map,
            ),
            "unmap": ("int(void *, void *, uint32_t)", self._unmap),
        }
        self._callbacks = {
            name: ffi.callback(signature, function)
            for name, (signature, function) in callbacks.items()
        }
        return ffi.new("struct hv_ops *", self._callbacks)

    def grant(self, ref: int, page: int, *, writable: bool = True) -> None:
        """Grant a page under a reference."""
        self.grants[ref] = (page, writable)

    def page(self, number: int) -> memoryview:
        """The content of a guest page."""
        return memoryview(self.memory)[number * PAGE : (number + 1) * PAGE]

    def address(self, page: int) -> Any:
        """Address of a guest page in this process, for a ring."""
        return self._base + page * PAGE

    def send_event(self, port: int = PORT) -> None:
        """What the guest's notify does."""
        self.pending_ports.append(port)
        os.eventfd_write(self.event, 1)

    def close(self) -> None:
        """Free the memory."""
        self.ops = self._base = None
        os.close(self.event)
        os.close(self._fd)

    def _evtchn_fd(self, _: Any) -> int:
        self.waits += 1
        return self.event

    def _notify(self, _: Any, port: int) -> int:
        self.notified.append(port)
        return 0

    def _pending(self, _: Any) -> int:
        if not self.pending_ports:
            return -errno.EAGAIN
        port = self.pending_ports.pop(0)
        if not self.pending_ports:
            os.eventfd_read(self.event)
        return port

    def _unmask(self, _: Any, port: int) -> int:
        self.unmasked.append(port)
        return 0

    def _status(self, ref: int, *, write: bool) -> int:
        if ref not in self.grants:
            return BAD_REF
        return OKAY if self.grants[ref][1] or not write else DENIED

    def _copy(self, _: Any, domid: int, elements: Any, count: int) -> int:
        self.copies.append(count)
        for i in range(count):
            element = elements[i]
            element.status = self._status(element.ref, write=bool(element.to_guest))
            if element.status != OKAY:
                continue
            guest = self.address(self.grants[element.ref][0]) + element.offset
            if element.to_guest:
                ffi.memmove(guest, element.local, element.length)
            else:
                ffi.memmove(element.local, guest, element.length)
        return 0

    def _map(self, _: Any, domid: int, refs: Any, count: int, writable: int, statuses: Any) -> Any:
        names = [refs[i] for i in range(count)]
        self.map_calls.append((names, bool(writable)))
        if self.map_error:
            ffi.errno = self.map_error
            return ffi.NULL
        results = [self._status(ref, write=bool(writable)) for ref in names]
        for i, status in enumerate(results):
            statuses[i] = status
        if any(results):
            ffi.errno = errno.EINVAL
            return ffi.NULL
        area = _libc.mmap(
            _libc_ffi.NULL, count * PAGE, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0
        )
        for i, ref in enumerate(names):
            _libc.mmap(
                _libc_ffi.cast("char *", area) + i * PAGE,
                PAGE,
                mmap.PROT_READ | mmap.PROT_WRITE,
                mmap.MAP_SHARED | _MAP_FIXED,
                self._fd,
                self.grants[ref][0] * PAGE,
            )
        address = int(_libc_ffi.cast("uintptr_t", area))
        self.mapped[address] = count
        return ffi.cast("void *", address)

    def _unmap(self, _: Any, address: Any, count: int) -> int:
        number = int(ffi.cast("uintptr_t", address))
        if self.mapped.pop(number, None) != count:
            return -errno.EINVAL
        _libc.munmap(_libc_ffi.cast("void *", number), count * PAGE)
        return 0
