# SPDX-License-Identifier: MIT
"""Build script of `worker.native._seccomp`, the call that installs a system-call filter (cffi).

Run from the root of the repository to build in place; setup.py runs it through `ffi`.
"""

from __future__ import annotations

from cffi import FFI

from shared.native.declarations import declarations

ffi = FFI()
ffi.cdef(declarations("worker/native/seccomp.h"))
ffi.set_source(
    "worker.native._seccomp",
    '#include "seccomp.h"',
    sources=["worker/native/seccomp.c"],
    include_dirs=["worker/native"],
    depends=["worker/native/seccomp.h"],
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-Werror"],
)

if __name__ == "__main__":
    ffi.compile(tmpdir=".", verbose=False)
