# SPDX-License-Identifier: MIT
"""Only what pyproject.toml cannot say: the native modules, built by cffi in API mode."""

import sys
from pathlib import Path

from setuptools import setup

# The build scripts share a module of ours (shared/native/declarations.py).
sys.path.insert(0, str(Path(__file__).resolve().parent))

setup(
    cffi_modules=[
        "shared/native/build.py:ffi",
        "shared/hypervisor/native/build.py:ffi",
        "shared/embedded/native/build.py:ffi",
        "shared/embedded/guest/native/build.py:ffi",
        "worker/native/build.py:ffi",
        "worker/native/build_trace.py:ffi",
        "shared/native/build_slice.py:ffi",
        "worker/native/build_seccomp.py:ffi",
        "worker/native/build_jail.py:ffi",
    ]
)
