# SPDX-License-Identifier: MIT
"""Only what pyproject.toml cannot say to setuptools: the native modules, built by cffi."""

import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).resolve().parent))

from shared.native.table import table

setup(cffi_modules=[f"shared/native/build.py:{one.variable}" for one in table().values()])
