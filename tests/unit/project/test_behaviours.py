# SPDX-License-Identifier: MIT
"""docs/behaviours.md is complete: each number in a test's name has a row, each row its tests."""

from __future__ import annotations

import re

import pytest

from shared.device_types import own_types
from tests.project import behaviours
from tests.project.behaviours import LATER
from tests.root import ROOT

ORIGINAL = [f"S{number}" for number in range(1, 27)]
HOSTILE = [f"F{number}" for number in (*range(1, 39), "38b", 39, 40)]


def test_behaviours_rows_are_numbered_without_a_gap() -> None:
    """So that none can be dropped unnoticed."""
    assert list(behaviours.rows()) == ORIGINAL + HOSTILE
    assert all(words for words, _ in behaviours.rows().values())


def test_behaviours_every_number_in_a_test_s_name_has_a_row() -> None:
    """A reader who meets `test_s16_…` finds what 16 means."""
    assert set(behaviours.tests()) - set(behaviours.rows()) == set()


@pytest.mark.parametrize("number", ORIGINAL + HOSTILE)
def test_behaviours_row_has_tests_or_waits_for_a_device_type(number: str) -> None:
    """Files that are there and have tests, or the names of types that are not there yet."""
    cell = behaviours.rows()[number][1]

    if cell.startswith(LATER):
        there = {one.name for one in own_types()}
        assert set(cell.removeprefix(LATER).split(", ")) & there == set()
    else:
        assert cell.split()
        for file in cell.split():
            text = (ROOT / file).read_text(encoding="utf-8")
            assert re.search(r"^(async )?def test_", text, re.MULTILINE), file


def test_behaviours_range_in_a_name_stands_for_each_number() -> None:
    """Two numbers in a row are two, `to` between them means all from one to the other."""
    assert behaviours.numbers("test_f19_f20_every_end") == {"F19", "F20"}
    assert behaviours.numbers("test_f17_to_f21_wild") == {f"F{number}" for number in range(17, 22)}
    assert behaviours.numbers("test_f38b_indices") == {"F38b"}
    assert behaviours.numbers("test_xenstored_s3_of_nobody") == set()


def test_behaviours_every_one_of_the_original_core_has_its_test() -> None:
    """S1 to S25: each number stands in the name of at least one unit or process test."""
    proven = {
        int(number)
        for file, names in behaviours.names().items()
        if file.startswith(("tests/unit/", "tests/process/"))
        for name in names
        for number in re.findall(r"_s(\d\d)(?=_)", name)
    }

    assert set(range(1, 26)) - proven == set()


def test_behaviours_every_hostile_case_that_applies_has_its_test() -> None:
    """The numbers that apply to disks: 8 is of 9pfs, and 37 to 39 are process tests."""
    attacked = {
        name.split("_")[1]
        for file, names in behaviours.names().items()
        if file.startswith("tests/hostile/")
        for name in names
        if name.startswith("test_f")
    }

    numbers = (*range(1, 8), *range(9, 16), *range(17, 27), 36, 40)
    assert {"f38b", *(f"f{number:02}" for number in numbers)} - attacked == set()
