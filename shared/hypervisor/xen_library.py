# SPDX-License-Identifier: MIT
"""libxenevtchn and libxengnttab, opened at run time, and their calls as types for mypy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, cast

from shared.errors import HostError
from shared.hypervisor.libraries import EVTCHN, GNTTAB, Library
from shared.hypervisor.native._xen import ffi
from shared.hypervisor.native._xen import lib as _lib

CData = Any
"""A pointer or structure of cffi."""


class EvtchnCalls(Protocol):
    """The functions over `struct xen_evtchn`; negative results are -errno (native/xen.h)."""

    def xen_evtchn_load(self, name: bytes, out: CData) -> CData:
        """NULL, or what is missing."""

    def xen_evtchn_open(self, calls: CData, out: CData) -> int:
        """Open the device."""

    def xen_evtchn_close(self, evtchn: CData) -> None:
        """Close the device and all ports."""

    def xen_evtchn_fd(self, evtchn: CData) -> int:
        """The descriptor to poll."""

    def xen_evtchn_alloc_unbound(self, evtchn: CData, domid: int) -> int:
        """A new port for a domain to bind to."""

    def xen_evtchn_bind_interdomain(self, evtchn: CData, domid: int, port: int) -> int:
        """A new port, bound to a domain's unbound one."""

    def xen_evtchn_unbind(self, evtchn: CData, port: int) -> int:
        """Close a port."""

    def xen_evtchn_notify(self, evtchn: CData, port: int) -> int:
        """Send an event."""

    def xen_evtchn_pending(self, evtchn: CData) -> int:
        """Take a pending port; -EAGAIN if there is none."""

    def xen_evtchn_unmask(self, evtchn: CData, port: int) -> int:
        """Let a port signal again."""

    def xen_evtchn_restrict(self, evtchn: CData, domid: int) -> int:
        """Bind to this domain only, for ever."""


class GnttabCalls(Protocol):
    """The functions over `struct xen_gnttab`; negative results are -errno (native/xen.h)."""

    def xen_gnttab_load(self, name: bytes, out: CData) -> CData:
        """NULL, or what is missing."""

    def xen_gnttab_open(self, calls: CData, out: CData) -> int:
        """Open the device."""

    def xen_gnttab_close(self, gnttab: CData) -> None:
        """Unmap everything and close the device."""

    def xen_gnttab_set_max_grants(self, gnttab: CData, count: int) -> int:
        """Bound the mapped pages."""

    def xen_gnttab_map(
        self, gnttab: CData, domid: int, refs: CData, count: int, writable: bool, statuses: CData
    ) -> CData:
        """Map all or none: NULL and errno, with the statuses filled in."""

    def xen_gnttab_unmap(self, gnttab: CData, address: CData, count: int) -> int:
        """Give an area back."""

    def xen_gnttab_copy(self, gnttab: CData, domid: int, elements: CData, count: int) -> int:
        """Copy; each element has its status."""


class XenCalls(EvtchnCalls, GnttabCalls, Protocol):
    """All of native/xen.h."""

    def xen_fill_ops(self, ops: CData, evtchn: CData, gnttab: CData) -> None:
        """The table for a data plane."""


lib: Final = cast("XenCalls", _lib)


def load_evtchn(library: Library = EVTCHN) -> CData:
    """The calls of libxenevtchn (`struct xen_evtchn_calls *`); raises as `load_gnttab`."""
    return _load(library, lib.xen_evtchn_load, "struct xen_evtchn_calls *")


def load_gnttab(library: Library = GNTTAB) -> CData:
    """The calls of libxengnttab (`struct xen_gnttab_calls *`).

    Raises:
        HostError: it is not there or lacks a call; names the Debian package.
    """
    return _load(library, lib.xen_gnttab_load, "struct xen_gnttab_calls *")


def _load(library: Library, load: Callable[[bytes, CData], CData], type_: str) -> CData:
    calls = ffi.new(type_)
    errors: list[str] = []
    for soname in library.sonames:
        error = load(soname.encode(), calls)
        if error == ffi.NULL:
            return calls
        errors.append(ffi.string(error).decode("utf-8", "replace"))
    raise HostError(_message(library, errors))


def _message(library: Library, errors: Sequence[str]) -> str:
    return (
        f"open library: {library.name}: {'; '.join(errors)}"
        f" (Debian: apt-get install {library.package})"
    )
