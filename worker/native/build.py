# SPDX-License-Identifier: MIT
"""Build script of `worker.native._block`, the blkif backend in C (cffi, API mode).

Run from the root of the repository to build in place; setup.py runs it through `ffi`.
"""

from __future__ import annotations

from pathlib import Path

from cffi import FFI

_ROOT = Path(__file__).resolve().parents[2]
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


def declarations(path: str) -> str:
    """A header as cffi reads it: without the preprocessor's lines."""
    lines = (_ROOT / path).read_text(encoding="ascii").splitlines()
    return "\n".join(line for line in lines if not line.startswith("#"))


ffi = FFI()
ffi.cdef("struct iovec { void *iov_base; size_t iov_len; };")
ffi.cdef(declarations("shared/native/hv_ops.h"))
ffi.cdef(declarations("worker/native/blk_api.h"))
ffi.set_source(
    "worker.native._block",
    '#include "blk_api.h"',
    sources=[f"worker/native/blk_{name}.c" for name in SOURCES],
    include_dirs=["worker/native"],
    depends=[f"worker/native/blk_{name}.h" for name in ("api", "internal", "journal", "point")],
    libraries=["pthread"],
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-Werror"],
)

if __name__ == "__main__":
    ffi.compile(tmpdir=".", verbose=False)
