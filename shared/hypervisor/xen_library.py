# SPDX-License-Identifier: MIT
"""Opens libxenevtchn and libxengnttab at run time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shared.errors import HostError
from shared.hypervisor.libraries import EVTCHN, GNTTAB, Library
from shared.hypervisor.native._xen import ffi, lib
from shared.hypervisor.translation import CData


def load_evtchn(library: Library = EVTCHN) -> CData:
    """The calls of libxenevtchn (`struct xen_evtchn_calls *`); raises like `load_gnttab`."""
    return _load(library, lib.xen_evtchn_load, "struct xen_evtchn_calls *")


def load_gnttab(library: Library = GNTTAB) -> CData:
    """The calls of libxengnttab (`struct xen_gnttab_calls *`).

    Raises:
        HostError: the library is missing or lacks a call; the text names the Debian package.
    """
    return _load(library, lib.xen_gnttab_load, "struct xen_gnttab_calls *")


def _load(library: Library, load: Callable[[bytes, CData], CData], type_: str) -> CData:
    calls = ffi.new(type_)
    errors: list[str] = []
    for soname in library.sonames:
        error = load(soname.encode(), calls)
        if error == ffi.NULL:
            return calls
        text = ffi.string(error)
        assert isinstance(text, bytes)
        errors.append(text.decode("utf-8", "replace"))
    raise HostError(_message(library, errors))


def _message(library: Library, errors: Sequence[str]) -> str:
    return (
        f"open library: {library.name}: {'; '.join(errors)}"
        f" (Debian: apt-get install {library.package})"
    )
