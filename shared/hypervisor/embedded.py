# SPDX-License-Identifier: MIT
"""The hypervisor interface over the embedded hypervisor.

Nothing but translation: from Python to shared/embedded/native, and from errno and grant status to
errors that carry blame. A guest that revoked a grant, closed its port or died is at fault; a
hypervisor that is gone is the host's failure; a call that cannot be right is our bug.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared.embedded.native._embedded import ffi, lib
from shared.embedded.protocol import MAP_MAX, Op, socket_path
from shared.errors import BackendBug, BlamedError, GuestFault, HostError
from shared.hypervisor.interface import PAGE_SIZE, EventChannels, GrantTable, Handles, Port
from shared.hypervisor.status import GrantStatus, describe


class NativeHandle:
    """One connection to the hypervisor, as native code uses it; closed once."""

    def __init__(self, directory: Path, domid: int) -> None:
        """Open a handle of a domain.

        Raises:
            HostError: there is no embedded hypervisor, or no such domain.
        """
        path = socket_path(str(directory), domid)
        out = ffi.new("struct embedded **")
        result = lib.embedded_open(os.fsencode(path), domid, out)
        if result < 0:
            raise HostError(f"open handle: {path}: {os.strerror(-result)}")
        self._native: Any = out[0]

    @property
    def closed(self) -> bool:
        return self._native is None

    @property
    def native(self) -> Any:
        """The `struct embedded *`; raises BackendBug once closed."""
        if self._native is None:
            raise BackendBug("use handle: embedded hypervisor: it is closed")
        return self._native

    def close(self) -> None:
        """Close the handle and all it holds. Idempotent."""
        native, self._native = self._native, None
        if native is not None:
            lib.embedded_close(native)


class EmbeddedEventChannels:
    """`EventChannels` of one handle, which is closed with it."""

    def __init__(self, handle: NativeHandle) -> None:
        self._handle = handle

    def fileno(self) -> int:
        return int(lib.embedded_evtchn_fd(self._handle.native))

    def alloc_unbound(self, domid: int) -> Port:
        """Make a port that domain `domid` may bind to."""
        port = lib.embedded_alloc_unbound(self._handle.native, domid)
        if port < 0:
            raise _error("allocate event channel", f"for domain {domid}", -port)
        return Port(port)

    def bind_interdomain(self, domid: int, remote_port: int) -> Port:
        what, which = "bind event channel", f"port {remote_port} of domain {domid}"
        if not 0 <= remote_port <= 0xFFFFFFFF:
            raise GuestFault(f"{what}: {which}: no such port")
        port = lib.embedded_bind_interdomain(self._handle.native, domid, remote_port)
        if port == -errno.EINVAL:
            raise GuestFault(f"{what}: {which}: no port that is unbound and kept for us")
        if port == -errno.ESRCH:
            raise GuestFault(f"{what}: {which}: there is no such domain")
        if port < 0:
            raise _error(what, which, -port)
        return Port(port)

    def unbind(self, port: Port) -> None:
        _check(
            "unbind event channel", f"port {port}", lib.embedded_unbind(self._handle.native, port)
        )

    def notify(self, port: Port) -> None:
        _check("notify", f"port {port}", lib.embedded_notify(self._handle.native, port))

    def pending(self) -> Port | None:
        port = lib.embedded_pending(self._handle.native)
        if port == -errno.EAGAIN:
            return None
        if port < 0:
            raise _error("take pending event channel", "embedded hypervisor", -port)
        return Port(port)

    def unmask(self, port: Port) -> None:
        _check("unmask", f"port {port}", lib.embedded_unmask(self._handle.native, port))

    def restrict(self, domid: int) -> None:
        result = lib.embedded_call(self._handle.native, Op.RESTRICT, domid, 0)
        _check("restrict event channels", f"to domain {domid}", result)

    def close(self) -> None:
        self._handle.close()

    def cause_spurious(self, port: Port) -> None:
        """Make a port pending though no event was sent. For tests: Xen may do so at any time."""
        _check(
            "cause event", f"port {port}", lib.embedded_cause_spurious(self._handle.native, port)
        )


class EmbeddedMapping:
    """`Mapping` of one area."""

    def __init__(self, handle: NativeHandle, area: Any, count: int) -> None:
        self._handle = handle
        self._area = area
        self._count = count
        self._buffer = memoryview(ffi.buffer(area, count * PAGE_SIZE))

    @property
    def address(self) -> int:
        return int(ffi.cast("uintptr_t", self._area))

    @property
    def buffer(self) -> memoryview:
        return self._buffer

    def unmap(self) -> None:
        area, self._area = self._area, None
        if area is None or self._handle.closed:
            return
        self._buffer.release()
        native = self._handle.native
        _check("unmap grants", "embedded hypervisor", lib.embedded_unmap(native, area, self._count))


class EmbeddedGrantTable:
    """`GrantTable` of one handle, which is closed with it."""

    def __init__(self, handle: NativeHandle) -> None:
        self._handle = handle

    def map(self, domid: int, refs: Sequence[int], *, writable: bool) -> EmbeddedMapping:
        count = len(refs)
        if not 0 < count <= MAP_MAX:
            raise BackendBug(f"map grants: domain {domid}: {count} pages, of 1 to {MAP_MAX}")
        _check_refs("map grants", domid, refs)
        statuses = ffi.new("int16_t[]", count)
        area = lib.embedded_map(
            self._handle.native, domid, ffi.new("uint32_t[]", list(refs)), count, writable, statuses
        )
        if area != ffi.NULL:
            return EmbeddedMapping(self._handle, area, count)
        code = ffi.errno
        if code in (errno.EINVAL, errno.ESRCH):
            for ref, status in zip(refs, statuses, strict=True):
                _check_status("map grants", domid, ref, status)
        raise _error("map grants", f"{count} pages of domain {domid}", code)

    def copy_from(self, domid: int, ref: int, offset: int, length: int) -> bytes:
        local = ffi.new("uint8_t[]", length)
        self._copy(domid, ref, offset, local, length, to_guest=0)
        return bytes(ffi.buffer(local, length))

    def copy_to(self, domid: int, ref: int, offset: int, data: bytes) -> None:
        self._copy(domid, ref, offset, ffi.from_buffer(data), len(data), to_guest=1)

    def _copy(
        self, domid: int, ref: int, offset: int, local: Any, length: int, *, to_guest: int
    ) -> None:
        if not (0 <= offset <= PAGE_SIZE and 0 <= length <= PAGE_SIZE - offset):
            raise BackendBug(f"copy grant: domain {domid}: bytes {offset}+{length} of a page")
        _check_refs("copy grant", domid, [ref])
        element = ffi.new("struct hv_copy *", [local, ref, offset, length, to_guest, 0])
        result = lib.embedded_copy(self._handle.native, domid, element, 1)
        _check("copy grant", f"reference {ref} of domain {domid}", result)
        _check_status("copy grant", domid, ref, element.status)

    def set_max_grants(self, count: int) -> None:
        result = lib.embedded_call(self._handle.native, Op.SET_MAX_GRANTS, 0, count)
        _check("set maximum of grants", str(count), result)

    def close(self) -> None:
        self._handle.close()


class EmbeddedHandles:
    """`Handles`: two connections, so that each can be closed by itself, as on Xen."""

    def __init__(self, event_channels: NativeHandle, grant_table: NativeHandle | None) -> None:
        self.event_channels: EventChannels = EmbeddedEventChannels(event_channels)
        self.grant_table: GrantTable | None = (
            EmbeddedGrantTable(grant_table) if grant_table else None
        )
        self._ops = ffi.new("struct hv_ops *")
        lib.embedded_fill_ops(
            self._ops, event_channels.native, grant_table.native if grant_table else ffi.NULL
        )

    @property
    def native_ops(self) -> int:
        return int(ffi.cast("uintptr_t", self._ops))

    def close(self) -> None:
        if self.grant_table is not None:
            self.grant_table.close()
        self.event_channels.close()


class EmbeddedHypervisor:
    """`Hypervisor` at `directory`, seen from domain `domid`."""

    def __init__(self, directory: Path, domid: int = 0) -> None:
        self.name = "embedded"
        self._directory = directory
        self._domid = domid

    def open_handles(self, *, grants: bool) -> Handles:
        event_channels = NativeHandle(self._directory, self._domid)
        try:
            grant_table = NativeHandle(self._directory, self._domid) if grants else None
        except BaseException:
            event_channels.close()
            raise
        return EmbeddedHandles(event_channels, grant_table)


def _check(what: str, which: str, result: int) -> None:
    if result < 0:
        raise _error(what, which, -result)


def _error(what: str, which: str, code: int) -> BlamedError:
    message = f"{what}: {which}: {os.strerror(code)}"
    if code in (errno.EPIPE, errno.ETIMEDOUT, errno.EPROTO):
        return HostError(f"{message} (the embedded hypervisor is gone)")
    if code in (errno.ENOMEM, errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.EIO):
        return HostError(message)
    return BackendBug(message)


def _check_refs(what: str, domid: int, refs: Sequence[int]) -> None:
    for ref in refs:
        if not 0 <= ref <= 0xFFFFFFFF:
            raise GuestFault(f"{what}: reference {ref} of domain {domid}: {GrantStatus.BAD_GNTREF}")


def _check_status(what: str, domid: int, ref: int, status: int) -> None:
    if status != GrantStatus.OKAY:
        raise GuestFault(f"{what}: reference {ref} of domain {domid}: {describe(status)}")
