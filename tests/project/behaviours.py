# SPDX-License-Identifier: MIT
"""docs/behaviours.md: the numbers in test names, and which tests carry them.

A row is `| S16 | what holds | tests |`. The words are written by hand. The last cell lists the
files with tests that carry the number; a number that no test's name carries keeps what is written
there: files that show it all the same, or `later: TYPE, TYPE` for device types that are not there.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from typing import Final

from tests.root import ROOT

PAGE: Final = ROOT / "docs" / "behaviours.md"
LATER: Final = "later: "

_ROW: Final = re.compile(r"^\| ([SF][0-9]+b?) \|(.*)\|([^|]*)\|$", re.MULTILINE)
_NUMBER: Final = re.compile(r"_([sf])([0-9]{2})(b?)(?=_)")
_RANGE: Final = re.compile(r"_([sf])([0-9]{2})_to_[sf]([0-9]{2})_")


def rows() -> dict[str, tuple[str, str]]:
    """What the page says of each number: the words, and the cell of the tests."""
    text = PAGE.read_text(encoding="utf-8")
    return {found[1]: (found[2].strip(), found[3].strip()) for found in _ROW.finditer(text)}


@cache
def names() -> dict[str, frozenset[str]]:
    """The names of all tests, by file."""
    found = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        found[str(path.relative_to(ROOT))] = frozenset(
            node.name
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and node.name.startswith("test_")
        )
    return found


@cache
def tests() -> dict[str, frozenset[str]]:
    """For each number the files with a test that carries it in its name."""
    found: dict[str, set[str]] = defaultdict(set)
    for file, names_there in names().items():
        for name in names_there:
            for number in numbers(name):
                found[number].add(file)
    return {number: frozenset(files) for number, files in found.items()}


def numbers(name: str) -> set[str]:
    """Numbers that a test's name carries: `test_f19_f20_…` both, `test_f17_to_f21_…` all five."""
    carried = {f"{kind.upper()}{int(digits)}{more}" for kind, digits, more in _NUMBER.findall(name)}
    for kind, first, last in _RANGE.findall(name):
        carried |= {f"{kind.upper()}{number}" for number in range(int(first), int(last) + 1)}
    return carried


def renewed(text: str) -> str:
    """The same rows with the files as they are now."""
    return _ROW.sub(_renewed_row, text)


def _renewed_row(found: re.Match[str]) -> str:
    number, words, cell = found[1], found[2], found[3].strip()
    if not cell.startswith(LATER) and (files := tests().get(number)):
        cell = " ".join(sorted(files))
    return f"| {number} |{words}| {cell} |"
