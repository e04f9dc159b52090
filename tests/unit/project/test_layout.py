# SPDX-License-Identifier: MIT
"""The rules of the source tree itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from tests.root import ROOT

PACKAGES = ("supervisor", "worker", "shared", "embedded", "config")
LINES_MAX = 400
FLAT_MODULES_MAX = 14


def sources(*folders: str) -> Iterator[Path]:
    """All Python files below the folders."""
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def test_layout_no_module_is_too_long_to_read() -> None:
    """At most 400 lines each; `-s` prints how long they are."""
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in sources(*PACKAGES)
        if path.name != "__init__.py"
    }
    print(f"\n{len(lines)} modules of the product, median {median(lines.values()):g} lines")  # noqa: T201

    assert {path: count for path, count in lines.items() if count > LINES_MAX} == {}


def test_layout_supervisor_has_wings_instead_of_a_corridor() -> None:
    """What belongs to a wing is in the wing; few modules are beside them."""
    flat = [path.name for path in (ROOT / "supervisor").glob("*.py") if path.stem != "__init__"]

    assert len(flat) <= FLAT_MODULES_MAX, flat


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
