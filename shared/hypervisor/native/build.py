# SPDX-License-Identifier: MIT
"""Build `shared.hypervisor.native._xen`: libxenevtchn and libxengnttab, found at run time."""

from __future__ import annotations

from cffi import FFI

from shared.native.declarations import declarations

FOLDER = "shared/hypervisor/native"
HEADERS = ("shared/native/hv_ops.h", f"{FOLDER}/xen.h")

ffi = FFI()
ffi.cdef(declarations(*HEADERS))
ffi.set_source(
    "shared.hypervisor.native._xen",
    '#include "xen.h"',
    sources=[f"{FOLDER}/{name}.c" for name in ("xen_evtchn", "xen_gnttab")],
    depends=[*HEADERS, "shared/native/hv_ops_over.h"],
    include_dirs=[FOLDER],
    libraries=["dl"],
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-Werror"],
)

if __name__ == "__main__":
    ffi.compile(tmpdir=".", verbose=False)
