# SPDX-License-Identifier: MIT
"""Build `shared.native._ring`: ordered access to ring indices, for Python."""

from __future__ import annotations

from cffi import FFI

from shared.native.declarations import declarations

FOLDER = "shared/native"

ffi = FFI()
ffi.cdef(declarations(f"{FOLDER}/ring_words.h"))
ffi.set_source(
    "shared.native._ring",
    '#include "ring_words.h"',
    sources=[f"{FOLDER}/ring_words.c"],
    depends=[f"{FOLDER}/ring_words.h", f"{FOLDER}/barrier.h"],
    include_dirs=[FOLDER],
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-Werror"],
)

if __name__ == "__main__":
    ffi.compile(tmpdir=".", verbose=False)
