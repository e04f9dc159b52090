# SPDX-License-Identifier: MIT
"""libxenevtchn and libxengnttab of our own, so that real Xen's side is tested without Xen."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from cffi import FFI

from shared.hypervisor.interface import Handles
from shared.hypervisor.libraries import Library
from shared.hypervisor.xen import XenHypervisor

DOMAIN = 3

_ffi = FFI()
_ffi.cdef(
    """
    struct fake {
        int open_error, call_error, map_error, copy_error, bad_ref, readonly_ref, domain;
        int opened, closed, mapped, copies, maps, events;
        uint32_t notified, unmasked, unbound, restricted, max_grants;
    };
    extern struct fake fake;
    void fake_reset(void);
    uint8_t *fake_page(int number);
    """
)


def build(directory: Path) -> Path:
    """Compile the library."""
    target = directory / "libxenfake.so"
    source = Path(__file__).with_suffix(".c")
    options = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *options, "-o", str(target), str(source)], check=True)
    return target


class FakeXen:
    """The library, its state, and handles over it."""

    def __init__(self, path: Path) -> None:
        library: Any = _ffi.dlopen(str(path))
        self._library = library
        self._library.fake_reset()
        # A name that does not exist comes first: it must not stop the search.
        names = ("libnothere.so.9", str(path))
        self.hypervisor = XenHypervisor(
            Library("libxenevtchn", names, "libxenevtchn1"),
            Library("libxengnttab", names, "libxengnttab1"),
        )

    @property
    def state(self) -> Any:
        """`struct fake`."""
        return self._library.fake

    def page(self, number: int) -> Any:
        """The bytes of a page of the guest."""
        return _ffi.buffer(self._library.fake_page(number), 4096)

    def open(self) -> Handles:
        """Both handles."""
        return self.hypervisor.open_handles(grants=True)
