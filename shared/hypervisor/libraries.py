# SPDX-License-Identifier: MIT
"""The libraries of Xen that are opened at run time, and where they come from.

They are opened at run time so that building and installing us needs nothing of Xen. Xen has kept
both ABIs since it split the libraries off (Xen 4.7), so each has had only one name so far.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Library(NamedTuple):
    """One library of Xen."""

    name: str
    sonames: tuple[str, ...]
    """Tried in order."""
    package: str
    """The Debian package of the library."""


EVTCHN: Final = Library("libxenevtchn", ("libxenevtchn.so.1",), "libxenevtchn1")
GNTTAB: Final = Library("libxengnttab", ("libxengnttab.so.1",), "libxengnttab1")

LIBRARIES: Final = (EVTCHN, GNTTAB)
