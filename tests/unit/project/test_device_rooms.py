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
    """What gives a type away: kinds, drivers, rooms, classes named for it, C files.

    The name is no such word, nor is a kind that is called the same: it may be plain English
    ("console"). Where code decides by it, `decisions` finds it.
    """
    place = folder(type_)
    found = {f"handler: {type_.name}"}
    found |= {name for room in rooms(type_) for name in (room, room.replace("/", "."))}
    found |= {kind.name for kind in type_.kinds if kind.name != type_.name}
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


def decisions(source: str, name: str) -> list[int]:
    """Lines of Python in which code decides by a type's name.

    The name is compared, a case, in a collection or a key, the value of a constant or a keyword, or
    looked up. Anything else is text for people: a message, the name of a step of the jail.
    """
    return sorted(
        {
            part.lineno
            for node in ast.walk(ast.parse(source))
            for part in _deciding(node)
            if isinstance(part, ast.Constant) and part.value == name
        }
    )


def _deciding(node: ast.AST) -> list[ast.expr | None]:
    """Parts of a node by which code may decide."""
    match node:
        case ast.Compare():
            return [node.left, *node.comparators]
        case ast.MatchValue() | ast.keyword():
            return [node.value]
        case ast.Assign(targets=[ast.Name(id=target)]) | ast.AnnAssign(target=ast.Name(id=target)):
            return [node.value] if target.isupper() else []
        case ast.Subscript():
            return [node.slice]
        case ast.Dict():
            return [*node.keys, *node.values]
        case ast.Set() | ast.List() | ast.Tuple():
            return list(node.elts)
        case ast.Call(func=ast.Name(id="resolve") | ast.Attribute(attr="resolve" | "get")):
            return list(node.args)
    return []


def decided(path: Path, name: str) -> list[str]:
    """Where a file decides by a type's name, as `mentions` says it."""
    if path.suffix != ".py":
        return mentions(path, re.compile(rf"""["']{re.escape(name)}["']"""))
    text = (ROOT / path).read_text(encoding="utf-8")
    lines = text.splitlines()
    found = decisions(text, name) if name in text else []
    return [f"{path}:{number}: {lines[number - 1].strip()}" for number in found]


def mentioning(type_: DeviceType) -> dict[Path, list[str]]:
    """Files outside of a type's rooms that name it, and the lines that do."""
    alternatives = "|".join(re.escape(word) for word in sorted(words(type_)))
    pattern = re.compile(rf"(?<![\w.])(?:{alternatives})(?!\w)")
    others = [path for path in files() if not any(map(path.is_relative_to, rooms(type_)))]
    return {
        path: lines
        for path in others
        if (lines := mentions(path, pattern) + decided(path, type_.name))
    }


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

    assert {kind.name for kind in type_.kinds} - {type_.name} <= found
    assert type_.backend.rpartition(":")[2] in found


@pytest.mark.parametrize(
    "source",
    [
        'if handler == "sound": pass',
        'if handler in ("sound", "other"): pass',
        'match handler:\n    case "sound": pass',
        'DRAIN = {"sound": 3.0}',
        'DEFAULT = {"handler": "sound"}',
        'HANDLER: Final = "sound"',
        'TypeConfig(handler="sound")',
        'about = device_types.resolve("sound")',
        'limit = limits["sound"]',
    ],
)
def test_device_type_by_whose_name_code_decides_is_found(source: str) -> None:
    """Each of these would have to be changed for a new type."""
    assert len(decisions(source, "sound")) == 1


@pytest.mark.parametrize(
    "source",
    [
        'def said(): return "sound"',
        'Step("sound", seal)',
        'class Quiet(Step):\n    name: str = "sound"',
        'print("sound")',
    ],
)
def test_device_type_whose_name_is_plain_english_may_stand_in_texts(source: str) -> None:
    """A type may be called what other files say in a sentence."""
    assert decisions(source, "sound") == []
