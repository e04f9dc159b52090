# SPDX-License-Identifier: MIT
"""docs/writing-guests.md shows what is really there."""

from __future__ import annotations

from textwrap import indent

from embedded.guest.frontend import Frontend
from tests.root import ROOT

PAGE = (ROOT / "docs" / "writing-guests.md").read_text()
SECTION = PAGE.partition("## A guest side for another device type")[2]


def test_documentation_excerpts_stand_in_the_example_word_for_word() -> None:
    """Each piece of code of the section on other types is in the type `echo` of the tests."""
    example = (ROOT / "tests" / "fakes" / "echo" / "guest.py").read_text()
    excerpts = [part.split("```")[0] for part in SECTION.split("```python\n")[1:]]
    assert excerpts
    # Methods stand at the left edge of the page.
    missing = [one for one in excerpts if one not in example and indent(one, "    ") not in example]
    assert missing == []


def test_documentation_names_every_hook_of_a_frontend() -> None:
    """The table of hooks is complete."""
    hooks = sorted(Frontend.__abstractmethods__)
    assert [hook for hook in hooks if f"| `{hook}` |" not in SECTION] == []
