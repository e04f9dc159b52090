# SPDX-License-Identifier: MIT
"""Implements the hypervisor interface over functions in C, and turns errno into blame.

Real Xen (shared/hypervisor/xen.py) and the embedded hypervisor (embedded/handles.py) offer the same
functions in C under different names. Each passes them in as a table, together with the one thing
that differs: the meaning of an errno.

A reference, port or domain that does not hold is the guest's fault, whatever the call. For all
other failures the `Explain` of the implementation decides.

This module opens nothing and knows no device.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shared.errors import BackendBug, BlamedError, GuestFault
from shared.hypervisor.interface import PAGE_SIZE, EventChannels, GrantTable, Port
from shared.hypervisor.status import GrantStatus, describe

CData = Any
"""A pointer or a structure of cffi."""

Explain = Callable[[str, str, int], BlamedError]
"""Makes the error from: what failed, on which object, with which errno."""

WORD_MAX: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class EventCalls:
    """The functions of an event-channel handle; negative results are -errno."""

    fd: Callable[[CData], int]
    alloc_unbound: Callable[[CData, int], int]
    bind_interdomain: Callable[[CData, int, int], int]
    unbind: Callable[[CData, int], int]
    notify: Callable[[CData, int], int]
    pending: Callable[[CData], int]
    """-EAGAIN: no port is pending."""
    unmask: Callable[[CData, int], int]
    restrict: Callable[[CData, int], int]


@dataclass(frozen=True, slots=True)
class GrantCalls:
    """The functions of a grant-table handle; negative results are -errno."""

    ffi: Any
    """The ffi of the module with the functions: types of another module do not fit."""
    map: Callable[[CData, int, CData, int, bool, CData], CData]
    """NULL and errno on failure; see hv_ops.h."""
    unmap: Callable[[CData, CData, int], int]
    copy: Callable[[CData, int, CData, int], int]
    set_max_grants: Callable[[CData, int], int]
    map_max: int
    """Pages of one map call."""
    blaming: frozenset[int]
    """If a map fails with one of these values of errno, the statuses say what was wrong."""


class NativeHandle:
    """One open handle as native code uses it; it is closed once."""

    def __init__(self, native: CData, name: str, close: Callable[[CData], object]) -> None:
        """`name` is for messages; `close` takes `native`."""
        self.name = name
        self._native: CData = native
        self._close = close

    @property
    def closed(self) -> bool:
        return self._native is None

    @property
    def native(self) -> CData:
        """The pointer; raises BackendBug after `close`."""
        if self._native is None:
            raise BackendBug(f"use handle: {self.name}: it is closed")
        return self._native

    def close(self) -> None:
        """Close the handle and all that it holds. Idempotent."""
        native, self._native = self._native, None
        if native is not None:
            self._close(native)


class _OverHandle:
    """What the calls of one handle have in common."""

    def __init__(self, handle: NativeHandle, explain: Explain) -> None:
        self._handle = handle
        self._explain = explain

    @property
    def native(self) -> CData:
        """The handle's pointer; raises BackendBug after `close`."""
        return self._handle.native

    def close(self) -> None:
        self._handle.close()

    def _check(self, what: str, which: str, result: int) -> None:
        if result < 0:
            raise self._explain(what, which, -result)


class NativeEventChannels(_OverHandle):
    """`EventChannels` over one handle; `close` closes the handle too."""

    def __init__(self, handle: NativeHandle, calls: EventCalls, explain: Explain) -> None:
        super().__init__(handle, explain)
        self._calls = calls

    def fileno(self) -> int:
        return self._calls.fd(self.native)

    def alloc_unbound(self, domid: int) -> Port:
        """Allocate a port that domain `domid` may bind to."""
        port = self._calls.alloc_unbound(self.native, domid)
        self._check("allocate event channel", f"for domain {domid}", port)
        return Port(port)

    def bind_interdomain(self, domid: int, remote_port: int) -> Port:
        what, which = "bind event channel", f"port {remote_port} of domain {domid}"
        if not 0 <= remote_port <= WORD_MAX:
            raise GuestFault(f"{what}: {which}: no such port")
        port = self._calls.bind_interdomain(self.native, domid, remote_port)
        if port == -errno.EINVAL:
            raise GuestFault(f"{what}: {which}: no port that is unbound and kept for us")
        if port == -errno.ESRCH:
            raise GuestFault(f"{what}: {which}: there is no such domain")
        self._check(what, which, port)
        return Port(port)

    def unbind(self, port: Port) -> None:
        self._check("unbind event channel", f"port {port}", self._calls.unbind(self.native, port))

    def notify(self, port: Port) -> None:
        self._check("notify", f"port {port}", self._calls.notify(self.native, port))

    def pending(self) -> Port | None:
        port = self._calls.pending(self.native)
        if port == -errno.EAGAIN:
            return None
        self._check("take pending event channel", self._handle.name, port)
        return Port(port)

    def unmask(self, port: Port) -> None:
        self._check("unmask", f"port {port}", self._calls.unmask(self.native, port))

    def restrict(self, domid: int) -> None:
        result = self._calls.restrict(self.native, domid)
        self._check("restrict event channels", f"to domain {domid}", result)


class NativeMapping:
    """`Mapping` of one area of a grant table."""

    def __init__(
        self, handle: NativeHandle, calls: GrantCalls, explain: Explain, area: CData, count: int
    ) -> None:
        self._handle = handle
        self._calls = calls
        self._explain = explain
        self._area = area
        self._count = count
        self._buffer = memoryview(calls.ffi.buffer(area, count * PAGE_SIZE))

    @property
    def address(self) -> int:
        return int(self._calls.ffi.cast("uintptr_t", self._area))

    @property
    def buffer(self) -> memoryview:
        return self._buffer

    def unmap(self) -> None:
        area, self._area = self._area, None
        if area is None or self._handle.closed:
            return
        self._buffer.release()
        result = self._calls.unmap(self._handle.native, area, self._count)
        if result < 0:
            raise self._explain("unmap grants", self._handle.name, -result)


class NativeGrantTable(_OverHandle):
    """`GrantTable` over one handle; `close` closes the handle too."""

    def __init__(self, handle: NativeHandle, calls: GrantCalls, explain: Explain) -> None:
        super().__init__(handle, explain)
        self._calls = calls

    def map(self, domid: int, refs: Sequence[int], *, writable: bool) -> NativeMapping:
        what, count, calls = "map grants", len(refs), self._calls
        if not 0 < count <= calls.map_max:
            raise BackendBug(f"{what}: domain {domid}: {count} pages, of 1 to {calls.map_max}")
        _check_refs(what, domid, refs)
        statuses = calls.ffi.new("int16_t[]", count)
        words = calls.ffi.new("uint32_t[]", list(refs))
        area = calls.map(self.native, domid, words, count, writable, statuses)
        if area != calls.ffi.NULL:
            return NativeMapping(self._handle, calls, self._explain, area, count)
        code = calls.ffi.errno
        if code in calls.blaming:
            for ref, status in zip(refs, statuses, strict=True):
                _check_status(what, domid, ref, status)
        raise self._explain(what, f"{count} pages of domain {domid}", code)

    def copy_from(self, domid: int, ref: int, offset: int, length: int) -> bytes:
        local = self._calls.ffi.new("uint8_t[]", length)
        self._copy(domid, ref, offset, local, length, to_guest=0)
        return bytes(self._calls.ffi.buffer(local, length))

    def copy_to(self, domid: int, ref: int, offset: int, data: bytes) -> None:
        local = self._calls.ffi.from_buffer(data)
        self._copy(domid, ref, offset, local, len(data), to_guest=1)

    def _copy(
        self, domid: int, ref: int, offset: int, local: CData, length: int, *, to_guest: int
    ) -> None:
        what = "copy grant"
        if not (0 <= offset <= PAGE_SIZE and 0 <= length <= PAGE_SIZE - offset):
            raise BackendBug(f"{what}: domain {domid}: bytes {offset}+{length} of a page")
        _check_refs(what, domid, [ref])
        element = self._calls.ffi.new("struct hv_copy *", [local, ref, offset, length, to_guest, 0])
        result = self._calls.copy(self.native, domid, element, 1)
        self._check(what, f"reference {ref} of domain {domid}", result)
        _check_status(what, domid, ref, element.status)

    def set_max_grants(self, count: int) -> None:
        result = self._calls.set_max_grants(self.native, count)
        self._check("set maximum of grants", str(count), result)


class NativeHandles:
    """`Handles` with one handle for each of the two, so that each can be closed by itself."""

    def __init__(
        self,
        ffi: Any,
        fill_ops: Callable[[CData, CData, CData], None],
        event_channels: NativeEventChannels,
        grant_table: NativeGrantTable | None,
    ) -> None:
        """`fill_ops` fills in a `struct hv_ops` over two pointers; the second may be NULL."""
        self.event_channels: EventChannels = event_channels
        self.grant_table: GrantTable | None = grant_table
        self._ffi = ffi
        self._ops = ffi.new("struct hv_ops *")
        fill_ops(self._ops, event_channels.native, grant_table.native if grant_table else ffi.NULL)

    @property
    def native_ops(self) -> int:
        return int(self._ffi.cast("uintptr_t", self._ops))

    def close(self) -> None:
        if self.grant_table is not None:
            self.grant_table.close()
        self.event_channels.close()


def _check_refs(what: str, domid: int, refs: Sequence[int]) -> None:
    for ref in refs:
        if not 0 <= ref <= WORD_MAX:
            raise GuestFault(f"{what}: reference {ref} of domain {domid}: {GrantStatus.BAD_GNTREF}")


def _check_status(what: str, domid: int, ref: int, status: int) -> None:
    if status != GrantStatus.OKAY:
        raise GuestFault(f"{what}: reference {ref} of domain {domid}: {describe(status)}")
