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

MAY_MENTION = {
    r"config/xenbackd\.yaml": "the default file switches types on",
    r"config/xenbackd\.schema\.json": "made of the manifests",
    r"pyproject\.toml": "entry points, native modules, files of a distribution",
    r"[A-Z]+\.md": "what there is, for people",
    r"docs/.*": "the same",
    r"bench/.*": "figures are of real disks",
    r"tests/unit/bench/.*": "tests of those",
    r"tests/unit/project/.*": "the source tree as it is, and examples of imports",
    r"tests/unit/config/test_files\.py": "the default file and the schema",
    r"tests/process/lab_world\.py": "a guest with a verified load on a disk, for whole stacks",
    r"tests/process/daemon_setup\.py": "a daemon serves what is installed",
    r"tests/process/embedded/test_guest_types\.py": "a disk beside a type of another distribution",
    r"tests/process/supervisor/test_adoption\.py": "a disk's load over the supervisor's death",
    r"tests/process/supervisor/test_bad_input_config\.py": "a disk's load over bad files",
    r"tests/process/supervisor/test_cli_commands\.py": "commands with the default file",
    r"tests/process/supervisor/test_daemon\.py": "devices of daemon_setup.py",
    r"tests/process/supervisor/test_device_life\.py": "disks that come, go and are served again",
    r"tests/process/supervisor/test_start\.py": "devices of daemon_setup.py",
    r"tests/process/supervisor/test_supervision_signals\.py": "the native trace of a disk's worker",
    r"tests/process/supervisor/test_supervision_stuck\.py": "devices of daemon_setup.py",
    r"tests/process/supervisor/test_upgrade\.py": "a disk's load over an upgrade",
    r"tests/process/worker/test_jail_serve\.py": "a disk's load in the jail",
    r"tests/process/worker/test_jail_worker\.py": "a disk's worker in the jail, without supervisor",
    r"tests/hostile/.*": "attacks on a worker by the ring that it really serves",
    r"tests/fuzz/.*": "the same, and what was found once",
    r"tests/sanitize/.*": "runs the native code that there is",
    r"tests/xen/.*": "disks of real guests",
}
"""Files outside of a type's rooms that may name it, and why. The other tests are of the framework:
they serve the type `toy` (tests/fakes/toy)."""


def folder(type_: DeviceType) -> str:
    """Where a type lives, from the root."""
    return type_.backend_module.rpartition(".")[0].replace(".", "/")


def rooms(type_: DeviceType) -> tuple[str, ...]:
    """Its folder, and the folders of its tests."""
    tests = ("tests/fakes", "tests/unit/devices", "tests/process/devices")
    return (folder(type_), *(f"{place}/{type_.name}" for place in tests))


def words(type_: DeviceType) -> set[str]:
    """What gives a type away: name, kinds, drivers, rooms, classes named for it, C files."""
    place = folder(type_)
    found = {f'"{type_.name}"', f"'{type_.name}'", f"handler: {type_.name}"}
    found |= {name for room in rooms(type_) for name in (room, room.replace("/", "."))}
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


def mentioning(type_: DeviceType) -> dict[Path, list[str]]:
    """Files outside of a type's rooms that name it, and the lines that do."""
    alternatives = "|".join(re.escape(word) for word in sorted(words(type_)))
    pattern = re.compile(rf"(?<![\w.])(?:{alternatives})(?!\w)")
    others = [path for path in files() if not any(map(path.is_relative_to, rooms(type_)))]
    return {path: lines for path in others if (lines := mentions(path, pattern))}


@pytest.mark.parametrize("type_", own_types(), ids=lambda type_: type_.name)
def test_device_type_is_named_only_in_its_rooms_and_in_listed_files(type_: DeviceType) -> None:
    """A new type is a new folder: nothing in the framework has to hear of it."""
    listed = re.compile("|".join(MAY_MENTION))
    found = mentioning(type_)

    assert [line for path in found if not listed.fullmatch(str(path)) for line in found[path]] == []


def test_device_rooms_list_names_no_file_in_vain() -> None:
    """A file that names no type any more loses its leave to do so."""
    found = [str(path) for type_ in own_types() for path in mentioning(type_)]

    assert [one for one in MAY_MENTION if not any(re.fullmatch(one, path) for path in found)] == []


@pytest.mark.parametrize("type_", own_types(), ids=lambda type_: type_.name)
def test_device_type_gives_itself_away_by_more_than_its_name(type_: DeviceType) -> None:
    """The test above looks for something: each type has kinds and a class at least."""
    found = words(type_)

    assert {kind.name for kind in type_.kinds} <= found
    assert type_.backend.rpartition(":")[2] in found
