# SPDX-License-Identifier: MIT
"""The hypervisor interface over real Xen: libxenevtchn and libxengnttab.

native/xen.h declares the functions in C; `shared.hypervisor.translation` does the rest.

Linux behaves as follows. Closing the event-channel device closes its ports. Mappings outlive the
grant-table device, so closing a grant table unmaps first. A mapping does not survive a fork.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from shared.errors import BackendBug, BlamedError, HostError
from shared.hypervisor.interface import Handles
from shared.hypervisor.libraries import EVTCHN, GNTTAB, Library
from shared.hypervisor.native._xen import ffi, lib
from shared.hypervisor.translation import (
    EventCalls,
    GrantCalls,
    NativeEventChannels,
    NativeGrantTable,
    NativeHandle,
    NativeHandles,
)
from shared.hypervisor.xen_library import load_evtchn, load_gnttab

EVTCHN_DEVICE: Final = "/dev/xen/evtchn"
GNTDEV_DEVICE: Final = "/dev/xen/gntdev"

_EVENT_CALLS: Final = EventCalls(
    fd=lib.xen_evtchn_fd,
    alloc_unbound=lib.xen_evtchn_alloc_unbound,
    bind_interdomain=lib.xen_evtchn_bind_interdomain,
    unbind=lib.xen_evtchn_unbind,
    notify=lib.xen_evtchn_notify,
    pending=lib.xen_evtchn_pending,
    unmask=lib.xen_evtchn_unmask,
    restrict=lib.xen_evtchn_restrict,
)
_GRANT_CALLS: Final = GrantCalls(
    ffi=ffi,
    map=lib.xen_gnttab_map,
    unmap=lib.xen_gnttab_unmap,
    copy=lib.xen_gnttab_copy,
    set_max_grants=lib.xen_gnttab_set_max_grants,
    map_max=4096,  # the same as on the embedded hypervisor
    blaming=frozenset({errno.EINVAL}),
)


def preload() -> None:
    """Open the libraries, which then stay open; raises like `load_gnttab`."""
    load_evtchn(EVTCHN)
    load_gnttab(GNTTAB)


class XenEventChannels(NativeEventChannels):
    """`EventChannels` over one open /dev/xen/evtchn (`struct xen_evtchn *`)."""

    def __init__(self, library: Library = EVTCHN) -> None:
        """Raises HostError: the library or the device cannot be opened."""
        calls = load_evtchn(library)
        out = ffi.new("struct xen_evtchn **")
        result = lib.xen_evtchn_open(calls, out)
        if result < 0:
            raise _open_error(EVTCHN_DEVICE, "xen-evtchn", -result)
        handle = NativeHandle(out[0], EVTCHN_DEVICE, lib.xen_evtchn_close)
        super().__init__(handle, _EVENT_CALLS, _explain)


class XenGrantTable(NativeGrantTable):
    """`GrantTable` over one open /dev/xen/gntdev (`struct xen_gnttab *`)."""

    def __init__(self, library: Library = GNTTAB) -> None:
        """Raises HostError: the library or the device cannot be opened."""
        calls = load_gnttab(library)
        out = ffi.new("struct xen_gnttab **")
        result = lib.xen_gnttab_open(calls, out)
        if result < 0:
            raise _open_error(GNTDEV_DEVICE, "xen-gntdev", -result)
        handle = NativeHandle(out[0], GNTDEV_DEVICE, lib.xen_gnttab_close)
        super().__init__(handle, _GRANT_CALLS, _explain)


class XenHypervisor:
    """`Hypervisor` for the Xen below this Linux."""

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
        return NativeHandles(ffi, lib.xen_fill_ops, event_channels, grant_table)


def _open_error(device: str, module: str, code: int) -> HostError:
    remedy = f"modprobe {module}"
    if code in (errno.EACCES, errno.EPERM):
        remedy = "run as root"
    return HostError(f"open handle: {device}: {os.strerror(code)} ({remedy})")


def _explain(what: str, which: str, code: int) -> BlamedError:
    message = f"{what}: {which}: {os.strerror(code)}"
    if code in (errno.EINVAL, errno.ENOTCONN, errno.EACCES, errno.EBADF, errno.EFAULT, errno.E2BIG):
        return BackendBug(message)
    return HostError(message)
