# SPDX-License-Identifier: MIT
"""The rules of the source tree itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.root import ROOT

PACKAGES = ("supervisor", "worker", "shared", "config")
FORBIDDEN = {
    "supervisor": {"worker"},
    "worker": {"supervisor"},
    "shared": {"supervisor", "worker", "config"},
    "config": {"supervisor", "worker", "shared"},
}


def sources(*folders: str) -> Iterator[Path]:
    """All Python files below the folders."""
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Top-level packages a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_layout_imports_follow_the_arrows(package: str) -> None:
    """Supervisor and worker never import each other; shared and config import neither."""
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(package)
        for name in imports(path)
        if name in FORBIDDEN[package]
    ]

    assert wrong == []


def test_layout_every_behaviour_of_the_original_core_has_its_test() -> None:
    """S1 to S25: each number stands in the name of at least one test that is collected."""
    names = [
        node.name
        for path in sources("tests/unit", "tests/process")
        if path.name.startswith("test_")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    ]
    proven = {int(number) for name in names for number in re.findall(r"_s(\d\d)(?=_)", name)}

    assert set(range(1, 26)) - proven == set()


def test_layout_every_hostile_case_that_applies_has_its_test() -> None:
    """The numbers that apply to disks: 8 is of 9pfs, and 37 to 39 are process tests."""
    names = [
        node.name
        for path in sources("tests/hostile")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_f")
    ]
    attacked = {name.split("_")[1] for name in names}

    numbers = (*range(1, 8), *range(9, 16), *range(17, 27), 36, 40)
    assert {"f38b", *(f"f{number:02}" for number in numbers)} - attacked == set()


def test_layout_every_source_file_begins_with_its_licence() -> None:
    """The SPDX line is the first line of every Python and C file."""
    files = [*sources(*PACKAGES, "tests", "bench")]
    files += [
        path
        for package in PACKAGES
        for ending in ("*.c", "*.h")
        for path in (ROOT / package).rglob(ending)
        if not path.name.startswith("_")
    ]
    bare = [
        str(path.relative_to(ROOT))
        for path in files
        if "SPDX-License-Identifier: MIT" not in path.read_text().split("\n", 1)[0]
    ]

    assert bare == []


def test_makefile_every_word_it_promises_does_something() -> None:
    """A word in .PHONY without a rule is accepted by make, and nothing happens."""
    text = (ROOT / "Makefile").read_text()
    promised = re.search(r"^\.PHONY: (.+)$", text, re.M)
    assert promised is not None
    assert set(promised[1].split()) == set(re.findall(r"^([a-z][a-z-]*):.*##", text, re.M))
