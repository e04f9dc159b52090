# SPDX-License-Identifier: MIT
"""The map of the files in ARCHITECTURE.md: every folder, every file, and what each is for."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from tests.project.modules import purpose, source_files


def markdown() -> str:
    """The map as Markdown: a heading for each folder, a line for each file."""
    folders: dict[Path, list[Path]] = defaultdict(list)
    for path in source_files():
        folders[path.parent].append(path)
    return "\n".join(_folder(folder, files) for folder, files in sorted(folders.items()))


def _folder(folder: Path, files: list[Path]) -> str:
    about = [purpose(path) for path in files if path.name == "__init__.py"]
    heading = f"**`{folder}/`** {' '.join(about)}".rstrip()
    lines = [f"- `{path.name}`: {purpose(path)}" for path in files if path.name != "__init__.py"]
    return "\n".join([heading, "", *lines, ""] if lines else [heading, ""])
