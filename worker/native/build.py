# SPDX-License-Identifier: MIT
"""Build script of `worker.native._block`, the blkif backend in C (cffi, API mode).

Run from the root of the repository to build in place; setup.py runs it through `ffi`.
"""

from __future__ import annotations

from cffi import FFI

from shared.native.declarations import declarations

HEADERS = ("shared/native/hv_ops.h", "worker/native/blk_api.h")
SOURCES = (
    "journal",
    "recover",
    "ring",
    "request",
    "grants",
    "disk",
    "merge",
    "pool",
    "engine",
    "run",
)

ffi = FFI()
ffi.cdef("struct iovec { void *iov_base; size_t iov_len; };")
ffi.cdef(declarations(*HEADERS))
ffi.set_source(
    "worker.native._block",
    '#include "blk_api.h"',
    sources=[f"worker/native/blk_{name}.c" for name in SOURCES],
    include_dirs=["worker/native"],
    depends=[
        *HEADERS,
        *(f"worker/native/blk_{name}.h" for name in ("internal", "journal", "point")),
        "shared/native/barrier.h",
        "shared/native/blkif.h",
    ],
    libraries=["pthread"],
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-Werror"],
)

if __name__ == "__main__":
    ffi.compile(tmpdir=".", verbose=False)
