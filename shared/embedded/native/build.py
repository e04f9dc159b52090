# SPDX-License-Identifier: MIT
"""Build `shared.embedded.native._embedded`: the embedded hypervisor's client side and entries."""

from __future__ import annotations

from cffi import FFI

from shared.native.declarations import declarations

FOLDER = "shared/embedded/native"
HEADERS = ("shared/native/hv_ops.h", f"{FOLDER}/protocol.h", f"{FOLDER}/embedded.h")

ffi = FFI()
ffi.cdef(declarations(*HEADERS))
ffi.set_source(
    "shared.embedded.native._embedded",
    '#include "embedded.h"',
    sources=[f"{FOLDER}/{name}.c" for name in ("handle", "channels", "grants", "entry")],
    depends=[
        *HEADERS,
        f"{FOLDER}/grant_entry.h",
        f"{FOLDER}/internal.h",
        "shared/native/hv_ops_over.h",
    ],
    include_dirs=[".", FOLDER],
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-Werror", "-pthread"],
    extra_link_args=["-pthread"],
)

if __name__ == "__main__":
    ffi.compile(tmpdir=".", verbose=False)
