# SPDX-License-Identifier: MIT
"""Build script of `worker.native._jail`, the jail's system calls (cffi, API mode).

Run from the root of the repository to build in place; setup.py runs it through `ffi`.
"""

from __future__ import annotations

from pathlib import Path

from cffi import FFI

_HEADER = Path(__file__).with_name("jail.h")

ffi = FFI()
ffi.cdef(
    "\n".join(
        line
        for line in _HEADER.read_text(encoding="ascii").splitlines()
        if not line.startswith("#")
    )
)
ffi.set_source(
    "worker.native._jail",
    '#include "jail.h"',
    sources=["worker/native/jail.c"],
    include_dirs=["worker/native"],
    depends=["worker/native/jail.h"],
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-Werror"],
)

if __name__ == "__main__":
    ffi.compile(tmpdir=".", verbose=False)
