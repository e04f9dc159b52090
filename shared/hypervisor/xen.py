# SPDX-License-Identifier: MIT
"""The hypervisor interface over real Xen: libxenevtchn and libxengnttab.

Nothing but translation, as shared/hypervisor/embedded.py: from Python to native/xen.h, and from
errno and grant status to errors that carry blame.

What Linux does: closing the event-channel device closes its ports; mappings outlive the
grant-table device, so closing a grant table unmaps first; a mapping does not survive a fork.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Final

from shared.errors import BackendBug, BlamedError, GuestFault, HostError
from shared.hypervisor.interface import PAGE_SIZE, EventChannels, GrantTable, Handles, Port
from shared.hypervisor.libraries import EVTCHN, GNTTAB, Library
from shared.hypervisor.native._xen import ffi
from shared.hypervisor.status import GrantStatus, describe
from shared.hypervisor.xen_library import CData, lib, load_evtchn, load_gnttab

EVTCHN_DEVICE: Final = "/dev/xen/evtchn"
GNTDEV_DEVICE: Final = "/dev/xen/gntdev"

MAP_MAX: Final = 4096
"""Pages of one map call, as on the embedded hypervisor."""


def preload() -> None:
    """Open the libraries, which then stay open; raises as `load_gnttab`."""
    load_evtchn(EVTCHN)
    load_gnttab(GNTTAB)


class XenEventChannels:
    """`EventChannels` over one open /dev/xen/evtchn."""

    def __init__(self, library: Library = EVTCHN) -> None:
        calls = load_evtchn(library)
        out = ffi.new("struct xen_evtchn **")
        result = lib.xen_evtchn_open(calls, out)
        if result < 0:
            raise _open_error(EVTCHN_DEVICE, "xen-evtchn", -result)
        self._native: CData = out[0]

    @property
    def native(self) -> CData:
        """The `struct xen_evtchn *`; raises BackendBug once closed."""
        if self._native is None:
            raise BackendBug(f"use handle: {EVTCHN_DEVICE}: it is closed")
        return self._native

    def fileno(self) -> int:
        return lib.xen_evtchn_fd(self.native)

    def alloc_unbound(self, domid: int) -> Port:
        """Make a port that domain `domid` may bind to."""
        port = lib.xen_evtchn_alloc_unbound(self.native, domid)
        if port < 0:
            raise _error("allocate event channel", f"for domain {domid}", -port)
        return Port(port)

    def bind_interdomain(self, domid: int, remote_port: int) -> Port:
        what, which = "bind event channel", f"port {remote_port} of domain {domid}"
        if not 0 <= remote_port <= 0xFFFFFFFF:
            raise GuestFault(f"{what}: {which}: no such port")
        port = lib.xen_evtchn_bind_interdomain(self.native, domid, remote_port)
        if port == -errno.EINVAL:
            raise GuestFault(f"{what}: {which}: no port that is unbound and kept for us")
        if port == -errno.ESRCH:
            raise GuestFault(f"{what}: {which}: there is no such domain")
        if port < 0:
            raise _error(what, which, -port)
        return Port(port)

    def unbind(self, port: Port) -> None:
        _check("unbind event channel", f"port {port}", lib.xen_evtchn_unbind(self.native, port))

    def notify(self, port: Port) -> None:
        _check("notify", f"port {port}", lib.xen_evtchn_notify(self.native, port))

    def pending(self) -> Port | None:
        port = lib.xen_evtchn_pending(self.native)
        if port == -errno.EAGAIN:
            return None
        if port < 0:
            raise _error("take pending event channel", EVTCHN_DEVICE, -port)
        return Port(port)

    def unmask(self, port: Port) -> None:
        _check("unmask", f"port {port}", lib.xen_evtchn_unmask(self.native, port))

    def restrict(self, domid: int) -> None:
        result = lib.xen_evtchn_restrict(self.native, domid)
        _check("restrict event channels", f"to domain {domid}", result)

    def close(self) -> None:
        native, self._native = self._native, None
        if native is not None:
            lib.xen_evtchn_close(native)


class XenGrantTable:
    """`GrantTable` over one open /dev/xen/gntdev."""

    def __init__(self, library: Library = GNTTAB) -> None:
        calls = load_gnttab(library)
        out = ffi.new("struct xen_gnttab **")
        result = lib.xen_gnttab_open(calls, out)
        if result < 0:
            raise _open_error(GNTDEV_DEVICE, "xen-gntdev", -result)
        self._native: CData = out[0]

    @property
    def closed(self) -> bool:
        return self._native is None

    @property
    def native(self) -> CData:
        """The `struct xen_gnttab *`; raises BackendBug once closed."""
        if self._native is None:
            raise BackendBug(f"use handle: {GNTDEV_DEVICE}: it is closed")
        return self._native

    def map(self, domid: int, refs: Sequence[int], *, writable: bool) -> XenMapping:
        what, count = "map grants", len(refs)
        if not 0 < count <= MAP_MAX:
            raise BackendBug(f"{what}: domain {domid}: {count} pages, of 1 to {MAP_MAX}")
        _check_refs(what, domid, refs)
        statuses = ffi.new("int16_t[]", count)
        words = ffi.new("uint32_t[]", list(refs))
        area = lib.xen_gnttab_map(self.native, domid, words, count, writable, statuses)
        if area != ffi.NULL:
            return XenMapping(self, area, count)
        code = ffi.errno
        if code == errno.EINVAL:
            for ref, status in zip(refs, statuses, strict=True):
                _check_status(what, domid, ref, status)
        raise _error(what, f"{count} pages of domain {domid}", code)

    def copy_from(self, domid: int, ref: int, offset: int, length: int) -> bytes:
        local = ffi.new("uint8_t[]", length)
        self._copy(domid, ref, offset, local, length, to_guest=0)
        return bytes(ffi.buffer(local, length))

    def copy_to(self, domid: int, ref: int, offset: int, data: bytes) -> None:
        self._copy(domid, ref, offset, ffi.from_buffer(data), len(data), to_guest=1)

    def _copy(
        self, domid: int, ref: int, offset: int, local: CData, length: int, *, to_guest: int
    ) -> None:
        what = "copy grant"
        if not (0 <= offset <= PAGE_SIZE and 0 <= length <= PAGE_SIZE - offset):
            raise BackendBug(f"{what}: domain {domid}: bytes {offset}+{length} of a page")
        _check_refs(what, domid, [ref])
        element = ffi.new("struct hv_copy *", [local, ref, offset, length, to_guest, 0])
        result = lib.xen_gnttab_copy(self.native, domid, element, 1)
        _check(what, f"reference {ref} of domain {domid}", result)
        _check_status(what, domid, ref, element.status)

    def set_max_grants(self, count: int) -> None:
        result = lib.xen_gnttab_set_max_grants(self.native, count)
        _check("set maximum of grants", str(count), result)

    def close(self) -> None:
        native, self._native = self._native, None
        if native is not None:
            lib.xen_gnttab_close(native)


class XenMapping:
    """`Mapping` of one area of a grant table."""

    def __init__(self, grant_table: XenGrantTable, area: CData, count: int) -> None:
        self._grant_table = grant_table
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
        if area is None or self._grant_table.closed:
            return
        self._buffer.release()
        result = lib.xen_gnttab_unmap(self._grant_table.native, area, self._count)
        _check("unmap grants", GNTDEV_DEVICE, result)


class XenHandles:
    """`Handles`: one open device each."""

    def __init__(self, event_channels: XenEventChannels, grant_table: XenGrantTable | None) -> None:
        self.event_channels: EventChannels = event_channels
        self.grant_table: GrantTable | None = grant_table
        self._ops = ffi.new("struct hv_ops *")
        lib.xen_fill_ops(
            self._ops, event_channels.native, grant_table.native if grant_table else ffi.NULL
        )

    @property
    def native_ops(self) -> int:
        return int(ffi.cast("uintptr_t", self._ops))

    def close(self) -> None:
        if self.grant_table is not None:
            self.grant_table.close()
        self.event_channels.close()


class XenHypervisor:
    """`Hypervisor`: the Xen below this Linux."""

    def __init__(self, evtchn: Library = EVTCHN, gnttab: Library = GNTTAB) -> None:
        self.name = "xen"
        self._evtchn = evtchn
        self._gnttab = gnttab

    def open_handles(self, *, grants: bool) -> Handles:
        event_channels = XenEventChannels(self._evtchn)
        try:
            grant_table = XenGrantTable(self._gnttab) if grants else None
        except BaseException:
            event_channels.close()
            raise
        return XenHandles(event_channels, grant_table)


def _open_error(device: str, module: str, code: int) -> HostError:
    remedy = f"modprobe {module}"
    if code in (errno.EACCES, errno.EPERM):
        remedy = "run as root"
    return HostError(f"open handle: {device}: {os.strerror(code)} ({remedy})")


def _check(what: str, which: str, result: int) -> None:
    if result < 0:
        raise _error(what, which, -result)


def _error(what: str, which: str, code: int) -> BlamedError:
    message = f"{what}: {which}: {os.strerror(code)}"
    if code in (errno.EINVAL, errno.ENOTCONN, errno.EACCES, errno.EBADF, errno.EFAULT, errno.E2BIG):
        return BackendBug(message)
    return HostError(message)


def _check_refs(what: str, domid: int, refs: Sequence[int]) -> None:
    for ref in refs:
        if not 0 <= ref <= 0xFFFFFFFF:
            raise GuestFault(f"{what}: reference {ref} of domain {domid}: {GrantStatus.BAD_GNTREF}")


def _check_status(what: str, domid: int, ref: int, status: int) -> None:
    if status != GrantStatus.OKAY:
        raise GuestFault(f"{what}: reference {ref} of domain {domid}: {describe(status)}")
