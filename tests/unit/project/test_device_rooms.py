# SPDX-License-Identifier: MIT
"""A device type lives in its folder: nothing else names it, except the files listed here."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.device_types import DeviceType, own_types
from tests.root import ROOT

MAY_MENTION = re.compile(
    r"config/xenbackd\.(yaml|schema\.json)"  # the default file; the schema is made of the manifests
    r"|pyproject\.toml|[A-Z]+\.md|docs/.*|bench/.*|tests/.*"
)
"""Files outside of a type's folder that may name it."""


def folder(type_: DeviceType) -> str:
    """Where a type lives, from the root."""
    return type_.backend_module.rpartition(".")[0].replace(".", "/")


def words(type_: DeviceType) -> set[str]:
    """What gives a type away: name, kinds, drivers, place, classes named for it, C files."""
    place = folder(type_)
    found = {place, place.replace("/", "."), f'"{type_.name}"', f"'{type_.name}'"}
    found |= {kind.name for kind in type_.kinds}
    found |= {kind.kernel_driver for kind in type_.kinds if kind.kernel_driver}
    for path in (ROOT / place).rglob("*.py"):
        tree = ast.parse(path.read_text())
        classes = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
        found |= {name for name in classes if type_.name in name.lower()}
    sources = [path.stem for path in (ROOT / place).rglob("*.[ch]")]
    found |= {stem for stem in sources if "_" in stem.lstrip("_")}
    return {word for word in found if not word.startswith("_")}


def files() -> Iterator[Path]:
    """Every file of the source tree, from the root; nothing that was built or belongs to a tool."""
    for directory, below, names in os.walk(ROOT):
        below[:] = [n for n in below if n == ".ci" or not n.startswith((".", "__pycache__"))]
        below[:] = [n for n in below if n != "build" and not n.endswith(".egg-info")]
        for name in names:
            path = Path(directory) / name
            if path.suffix not in (".so", ".o") and not re.match(r"_.*\.c$", name):
                yield path.relative_to(ROOT)


def mentions(path: Path, pattern: re.Pattern[str]) -> list[str]:
    """Lines of a text file that a pattern is in, as `file:line: text`."""
    try:
        text = (ROOT / path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return []
    return [
        f"{path}:{number}: {line.strip()}"
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


@pytest.mark.parametrize("type_", own_types(), ids=lambda type_: type_.name)
def test_device_type_is_named_only_in_its_folder_and_in_listed_files(type_: DeviceType) -> None:
    """A new type is a new folder: nothing in the framework has to hear of it."""
    alternatives = "|".join(re.escape(word) for word in sorted(words(type_)))
    pattern = re.compile(rf"(?<![\w/.])(?:{alternatives})(?!\w)")
    others = [
        path
        for path in files()
        if not path.is_relative_to(folder(type_)) and not MAY_MENTION.fullmatch(str(path))
    ]

    assert [line for path in others for line in mentions(path, pattern)] == []


@pytest.mark.parametrize("type_", own_types(), ids=lambda type_: type_.name)
def test_device_type_gives_itself_away_by_more_than_its_name(type_: DeviceType) -> None:
    """The test above looks for something: each type has kinds and a class at least."""
    found = words(type_)

    assert {kind.name for kind in type_.kinds} <= found
    assert type_.backend.rpartition(":")[2] in found
