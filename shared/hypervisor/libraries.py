# SPDX-License-Identifier: MIT
"""The libraries of Xen that are opened at run time, and where they come from.

At run time, so that nothing of Xen is needed to build or install us. Xen has kept both ABIs since
it split the libraries off (Xen 4.7), so there is one name of each so far.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Library(NamedTuple):
    """One library of Xen."""

    name: str
    sonames: tuple[str, ...]
    """Tried in order."""
    package: str
    """The Debian package that has it."""


EVTCHN: Final = Library("libxenevtchn", ("libxenevtchn.so.1",), "libxenevtchn1")
GNTTAB: Final = Library("libxengnttab", ("libxengnttab.so.1",), "libxengnttab1")

LIBRARIES: Final = (EVTCHN, GNTTAB)
