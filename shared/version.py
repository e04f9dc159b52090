# SPDX-License-Identifier: MIT
"""The version: of the installed distribution or, if it is not installed, of the checkout."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path


def version() -> str:
    """The version as `0.1.0`; "unknown" without both metadata and pyproject.toml."""
    try:
        return metadata.version("xenbackd")
    except metadata.PackageNotFoundError:
        pass
    try:
        with (Path(__file__).parents[1] / "pyproject.toml").open("rb") as file:
            return str(tomllib.load(file)["project"]["version"])
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return "unknown"
