# SPDX-License-Identifier: MIT
"""What a manifest may declare as commands."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from shared.commands import COMMAND_SECONDS_MAX, Command, check_commands


class Plain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every kind of plain value."""

    number: Annotated[int, Meta(ge=0)]
    share: float = 0.0
    word: Literal["a", "b"] = "a"
    text: str | None = None
    flag: bool = False


class Rows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What only a reply may have."""

    rows: list[Plain]
    by_name: dict[str, tuple[int, ...]] = {}


class Open(msgspec.Struct, frozen=True):
    """Takes fields that nobody declared."""


class Deep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Closed, with something open in it."""

    inner: list[Open] = []


class Anything(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Closed by name only."""

    value: Any = None


def test_commands_of_closed_models_are_accepted() -> None:
    """Plain arguments; a reply of text, or with lists and mappings of plain values."""
    check_commands((Command("set", "x", Plain), Command("list-all", "x", reply=Rows)))


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (Command("", "x"), "not a name"),
        (Command("Set", "x"), "not a name"),
        (Command("a\x1b", "x"), "not a name"),
        (Command("a", "x", seconds=0), "at most 30"),
        (Command("a", "x", seconds=COMMAND_SECONDS_MAX + 1), "at most 30"),
        (Command("a", "x", seconds=float("nan")), "at most 30"),
        (Command("a", "x", Open), "arguments: Open: does not forbid unknown fields"),
        (Command("a", "x", Rows), "arguments: rows: no plain value"),
        (Command("a", "x", Anything), "arguments: value: no plain value"),
        (Command("a", "x", reply=Deep), "reply: Open: does not forbid unknown fields"),
        (Command("a", "x", reply=Anything), "reply: value: no plain value"),
        (Command("a", "x", reply=int), "reply: no msgspec.Struct"),  # type: ignore[arg-type]
    ],
)
def test_commands_that_are_open_or_unbounded_are_refused(command: Command, text: str) -> None:
    """The manifest cannot be used then; the error names the command and what is wrong."""
    with pytest.raises(ValueError, match=text):
        check_commands((command,))


def test_commands_of_one_name_are_refused() -> None:
    """Which one was meant would be a matter of luck."""
    with pytest.raises(ValueError, match="more than once"):
        check_commands((Command("a", "x"), Command("a", "y")))
