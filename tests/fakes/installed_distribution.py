# SPDX-License-Identifier: MIT
"""An environment of its own in which device types of other distributions are installed.

The fork server takes no path from its environment variables, so a type that a worker shall load
has to be installed where its interpreter looks.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from shared.device_types import GROUP
from tests.root import ROOT


class Environment(NamedTuple):
    """An environment like ours, to which types can be added."""

    python: Path
    packages: Path
    """Where distributions are installed."""


def make_environment(directory: Path) -> Environment:
    """Make it; whatever can be imported here can be imported there."""
    venv.EnvBuilder(symlinks=True).create(directory)
    paths = {"base": str(directory), "platbase": str(directory)}
    packages = Path(sysconfig.get_path("purelib", "venv", paths))
    ours = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), str(ROOT)}
    (packages / "ours.pth").write_text("\n".join(sorted(ours)) + "\n")
    return Environment(directory / "bin" / "python", packages)


def environment_with(directory: Path, name: str, manifest: str) -> Path:
    """Make an environment with one type besides ours; returns its interpreter.

    `manifest` is what the type's entry point names; its module is importable from our root.
    """
    return environment_of(directory, {name: manifest})


def environment_of(directory: Path, manifests: Mapping[str, str]) -> Path:
    """The same with several types, by name, each of a distribution of its own."""
    made = make_environment(directory)
    for name, manifest in manifests.items():
        info = made.packages / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {manifest}\n")
    return made.python


def install_from_source(source: Path, made: Environment, work: Path) -> None:
    """Build a distribution's wheel and install it, as a user would, without a network."""
    wheels = work / "wheels"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    quiet = ["--quiet", "--no-deps", "--no-index"]
    build = [*pip, "wheel", *quiet, "--no-build-isolation"]
    build += ["--wheel-dir", str(wheels), str(source)]
    subprocess.run(build, check=True, cwd=work)
    [wheel] = wheels.glob("*.whl")
    subprocess.run(
        [*pip, "install", *quiet, "--target", str(made.packages), str(wheel)], check=True
    )
