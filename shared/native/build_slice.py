# SPDX-License-Identifier: MIT
"""Build script of `shared.native._slice`, the scheduler's slice of a thread (cffi).

Run from the root of the repository to build in place; setup.py runs it through `ffi`.
"""

from __future__ import annotations

from cffi import FFI

from shared.native.declarations import declarations

ffi = FFI()
ffi.cdef(declarations("shared/native/slice.h"))
ffi.set_source(
    "shared.native._slice",
    '#include "slice.h"',
    sources=["shared/native/slice.c"],
    include_dirs=["shared/native"],
    depends=["shared/native/slice.h"],
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-Werror"],
)

if __name__ == "__main__":
    ffi.compile(tmpdir=".", verbose=False)
