# SPDX-License-Identifier: MIT
"""Build `shared.native._ring`: ordered access to ring indices, for Python."""

from __future__ import annotations

from cffi import FFI

FOLDER = "shared/native"

ffi = FFI()
ffi.cdef(
    """
    uint32_t word_load_acquire(uintptr_t address);
    void word_store_release(uintptr_t address, uint32_t value);
    void memory_full_barrier(void);
    int ring_push(uintptr_t producer, uintptr_t event, uint32_t old, uint32_t new_index);
    uint32_t ring_final_check(uintptr_t producer, uintptr_t event, uint32_t consumer);
    """
)
ffi.set_source(
    "shared.native._ring",
    '#include "ring_words.h"',
    sources=[f"{FOLDER}/ring_words.c"],
    include_dirs=[FOLDER],
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-Werror"],
)

if __name__ == "__main__":
    ffi.compile(tmpdir=".", verbose=False)
