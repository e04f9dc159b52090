# SPDX-License-Identifier: MIT
"""The versions of Debian 13, which a run of all tests is made with, leave nothing out."""

from __future__ import annotations

import re
import tomllib

from tests.root import ROOT


def name(requirement: str) -> str:
    """Of a distribution, as package indexes compare names."""
    return re.split(r"[<>=!~ ;\[]", requirement)[0].replace("_", "-").lower()


def constraints() -> list[str]:
    """The lines that are no comments."""
    lines = (ROOT / "tests" / "debian-13.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_debian_versions_are_exact() -> None:
    """A run of today and one of next year use the same."""
    assert [line for line in constraints() if not re.fullmatch(r"[\w-]+==[\w.]+", line)] == []


def test_debian_versions_are_given_of_all_that_runs_or_builds() -> None:
    """Whatever is not in the file would be the newest of the index."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    needed = [*project["project"]["dependencies"], *project["build-system"]["requires"]]

    assert {name(one) for one in needed} - {name(one) for one in constraints()} == set()
