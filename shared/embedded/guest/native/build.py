# SPDX-License-Identifier: MIT
"""Build script of `shared.embedded.guest.native._front`, the block frontend in C (cffi, API mode).

What Python may call is `front_api.h`, one file for both compilers. Run from the repository root.
"""

from __future__ import annotations

from cffi import FFI

from shared.native.declarations import declarations

_HERE = "shared/embedded/guest/native"
_UNITS = ("handle", "ring", "transfer", "verify", "schedule", "load", "record", "loopback")

ffi = FFI()
ffi.cdef(declarations(f"{_HERE}/front_api.h"))
ffi.set_source(
    "shared.embedded.guest.native._front",
    '#include <stdint.h>\n#include "front_api.h"\n',
    sources=[f"{_HERE}/{unit}.c" for unit in _UNITS],
    include_dirs=[_HERE, "shared/native"],
    depends=[
        f"{_HERE}/front_api.h",
        f"{_HERE}/front.h",
        f"{_HERE}/load.h",
        "shared/native/barrier.h",
        "shared/native/blkif.h",
        "shared/native/hv_ops.h",
    ],
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-pthread"],
    extra_link_args=["-pthread"],
)

if __name__ == "__main__":
    ffi.compile(tmpdir=".", verbose=False)
