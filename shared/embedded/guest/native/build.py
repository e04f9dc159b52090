# SPDX-License-Identifier: MIT
"""Build script of `shared.embedded.guest.native._front`, the block frontend in C (cffi, API mode).

What Python may call is `front_api.h`, one file for both compilers. Run from the repository root.
"""

from __future__ import annotations

from pathlib import Path

from cffi import FFI

_HERE = "shared/embedded/guest/native"
_UNITS = ("handle", "ring", "transfer", "verify", "schedule", "load", "record", "loopback")


def _declarations() -> str:
    """The header without the include guard, the only preprocessor lines cffi does not take."""
    text = Path(__file__).with_name("front_api.h").read_text(encoding="ascii")
    kept = [
        line
        for line in text.splitlines()
        if not line.startswith(("#ifndef", "#endif", "#define XENBACKD_"))
    ]
    return "\n".join(kept)


ffi = FFI()
ffi.cdef(_declarations())
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
