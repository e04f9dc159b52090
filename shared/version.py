# SPDX-License-Identifier: MIT
"""The version of this installation: the distribution's, or the checkout's if it is none."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path


def version() -> str:
    """Version as `0.1.0`; "unknown" if neither metadata nor pyproject.toml is there."""
    try:
        return metadata.version("xenbackd")
    except metadata.PackageNotFoundError:
        pass
    try:
        with (Path(__file__).parents[1] / "pyproject.toml").open("rb") as file:
            return str(tomllib.load(file)["project"]["version"])
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return "unknown"
