# SPDX-License-Identifier: MIT
"""SECURITY.md keeps its word: each guarantee names tests that are there."""

from __future__ import annotations

import re

from tests.root import ROOT

PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def rows() -> list[list[str]]:
    """Cells of the table's rows."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.splitlines()
        if re.match(r"\| [0-9]+ \|", line)
    ]


def test_security_guarantees_name_tests_that_exist() -> None:
    """At least one file each, and every one of them with tests in it."""
    named = {row[0]: row[-1].split() for row in rows()}
    assert len(named) > 20
    for number, files in named.items():
        assert files, f"guarantee {number} is not shown by anything"
        for file in files:
            text = (ROOT / file).read_text(encoding="utf-8")
            assert re.search(r"^(async )?def test_", text, re.MULTILINE), f"{number}: {file}"


def test_security_guarantees_are_numbered_and_say_against_whom() -> None:
    """So that they can be referred to."""
    assert [row[0] for row in rows()] == [str(number + 1) for number in range(len(rows()))]
    assert {row[1] for row in rows()} == {"guest", "turned worker", "other user", "operator's slip"}
    assert all(len(row) == 4 for row in rows())


def test_security_what_does_not_hold_is_numbered() -> None:
    """From 1 on, without a gap."""
    section = PAGE.partition("## What does not hold")[2].partition("\n## ")[0]
    numbers = [int(found) for found in re.findall(r"^([0-9]+)\. ", section, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > 10
