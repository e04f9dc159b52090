# SPDX-License-Identifier: MIT
"""What pyproject.toml cannot tell setuptools: the native modules, which cffi builds."""

import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).resolve().parent))

from shared.native.table import table

setup(cffi_modules=[f"shared/native/build.py:{one.variable}" for one in table().values()])
