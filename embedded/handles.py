# SPDX-License-Identifier: MIT
"""The hypervisor interface over the embedded hypervisor.

The functions in C are those of embedded/native; `shared.hypervisor.translation` does the rest. A
guest that revoked a grant, closed its port or died is at fault; a hypervisor that is gone is the
host's failure; a call that can never be right is our bug.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from embedded.native._embedded import ffi, lib
from embedded.protocol import MAP_MAX, Op, socket_path
from shared.errors import BackendBug, BlamedError, HostError
from shared.hypervisor.interface import Handles, Port
from shared.hypervisor.translation import (
    CData,
    EventCalls,
    GrantCalls,
    NativeEventChannels,
    NativeGrantTable,
    NativeHandle,
    NativeHandles,
)


def _restrict(native: CData, domid: int) -> int:
    return int(lib.embedded_call(native, Op.RESTRICT, domid, 0))


def _set_max_grants(native: CData, count: int) -> int:
    return int(lib.embedded_call(native, Op.SET_MAX_GRANTS, 0, count))


_EVENT_CALLS: Final = EventCalls(
    fd=lib.embedded_fd,
    alloc_unbound=lib.embedded_alloc_unbound,
    bind_interdomain=lib.embedded_bind_interdomain,
    unbind=lib.embedded_unbind,
    notify=lib.embedded_notify,
    pending=lib.embedded_pending,
    unmask=lib.embedded_unmask,
    restrict=_restrict,
)
_GRANT_CALLS: Final = GrantCalls(
    ffi=ffi,
    map=lib.embedded_map,
    unmap=lib.embedded_unmap,
    copy=lib.embedded_copy,
    set_max_grants=_set_max_grants,
    map_max=MAP_MAX,
    blaming=frozenset({errno.EINVAL, errno.ESRCH}),
)


class EmbeddedHandle(NativeHandle):
    """One connection to the hypervisor (`struct embedded *`)."""

    def __init__(self, directory: Path | str, domid: int) -> None:
        """Open a handle of a domain.

        Raises:
            HostError: there is no embedded hypervisor, or no such domain.
        """
        path = socket_path(str(directory), domid)
        out = ffi.new("struct embedded **")
        result = lib.embedded_open(os.fsencode(path), domid, out)
        if result < 0:
            raise HostError(f"open handle: {path}: {os.strerror(-result)}")
        super().__init__(out[0], "embedded hypervisor", lib.embedded_close)


class EmbeddedEventChannels(NativeEventChannels):
    """`EventChannels` of one connection, which is closed with it."""

    def __init__(self, handle: EmbeddedHandle) -> None:
        super().__init__(handle, _EVENT_CALLS, _explain)

    def cause_spurious(self, port: Port) -> None:
        """Make a port pending though no event was sent. For tests: Xen may do so at any time."""
        result = lib.embedded_cause_spurious(self.native, port)
        self._check("cause event", f"port {port}", result)


class EmbeddedGrantTable(NativeGrantTable):
    """`GrantTable` of one connection, which is closed with it."""

    def __init__(self, handle: EmbeddedHandle) -> None:
        super().__init__(handle, _GRANT_CALLS, _explain)


class EmbeddedHypervisor:
    """`Hypervisor` at `directory`, seen from domain `domid`."""

    def __init__(self, directory: Path | str, domid: int = 0) -> None:
        self.name = "embedded"
        self._directory = directory
        self._domid = domid

    def open_handles(self, *, grants: bool) -> Handles:
        event_channels = EmbeddedEventChannels(self._open())
        try:
            grant_table = EmbeddedGrantTable(self._open()) if grants else None
        except BaseException:
            event_channels.close()
            raise
        return NativeHandles(ffi, lib.embedded_fill_ops, event_channels, grant_table)

    def _open(self) -> EmbeddedHandle:
        return EmbeddedHandle(self._directory, self._domid)


def _explain(what: str, which: str, code: int) -> BlamedError:
    message = f"{what}: {which}: {os.strerror(code)}"
    if code in (errno.EPIPE, errno.ETIMEDOUT, errno.EPROTO):
        return HostError(f"{message} (the embedded hypervisor is gone)")
    if code in (errno.ENOMEM, errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.EIO):
        return HostError(message)
    return BackendBug(message)
