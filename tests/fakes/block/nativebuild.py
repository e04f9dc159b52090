# SPDX-License-Identifier: MIT
"""Native modules that only tests need: compiled when first asked for, gone with the process."""

from __future__ import annotations

import atexit
import importlib.util
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cffi import FFI

from shared.native.declarations import ROOT

OWN = "tests/fakes/block/native"


def compiled(
    name: str,
    *,
    declared: str,
    own: str,
    sources: Sequence[str],
    arguments: Sequence[str] = (),
) -> Any:
    """Compile and import a module.

    Args:
        name: what it is called.
        declared: declarations of the product's that the test's own header needs.
        own: the test's own header in tests/fakes/block/native, without `.h`, which Python sees.
        sources: from the root of the repository.
        arguments: more of them for the compiler.
    """
    directory = Path(tempfile.mkdtemp(prefix="xbn"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    ffi = FFI()
    ffi.cdef("struct iovec { void *iov_base; size_t iov_len; };")
    ffi.cdef(declared)
    ffi.cdef((ROOT / OWN / f"{own}.h").read_text())
    ffi.set_source(
        name,
        f'#include "blk_api.h"\n#include "{own}.h"',
        sources=[str(ROOT / source) for source in sources],
        include_dirs=[str(ROOT), str(ROOT / "worker/devices/block/native"), str(ROOT / OWN)],
        extra_compile_args=["-O1", "-Wall", "-Wextra", "-Werror", *arguments],
        libraries=["pthread"],
    )
    path = ffi.compile(tmpdir=str(directory))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
