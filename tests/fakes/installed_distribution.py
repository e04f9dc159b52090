# SPDX-License-Identifier: MIT
"""An environment of its own in which a device type of another distribution is installed.

The fork server takes no path from its environment variables, so a type that a worker shall load
has to be installed where its interpreter looks.
"""

from __future__ import annotations

import sysconfig
import venv
from pathlib import Path

from shared.device_types import GROUP
from tests.root import ROOT


def environment_with(directory: Path, name: str, manifest: str) -> Path:
    """Make an environment like ours, with the type besides; returns its interpreter.

    `manifest` is what the type's entry point names; its module is importable from our root.
    """
    venv.EnvBuilder(symlinks=True).create(directory)
    paths = {"base": str(directory), "platbase": str(directory)}
    packages = Path(sysconfig.get_path("purelib", "venv", paths))
    ours = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), str(ROOT)}
    (packages / "ours.pth").write_text("\n".join(sorted(ours)) + "\n")
    info = packages / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {manifest}\n")
    return directory / "bin" / "python"
