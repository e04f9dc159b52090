# SPDX-License-Identifier: MIT
"""`xenbackd command`: how a reply looks."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor.cli import main as cli
from supervisor.cli import output
from supervisor.cli.command import blocks


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("60 s ahead", "60 s ahead\n"),
        ("a\nb\x1b[2J", "a\\x0ab\\x1b[2J\n"),
        (
            {"won": 3, "names": ["x", "y"], "note": None},
            'won    3\nnames  ["x", "y"]\nnote   null\n',
        ),
        ({"text": "\u202e\x07"}, "text  \\u202e\\x07\n"),
        ({"names": ["\u202e"]}, 'names  ["\\u202e"]\n'),
    ],
)
def test_command_reply_is_printed_harmless(value: Any, text: str) -> None:
    """A text is one line; a model is one line for each field."""
    assert "".join(map(output.plain, blocks(value))) == text


@pytest.mark.parametrize("words", [["x"], ["toy/1/1", "set", "ahead"], ["toy/1/1", "set", "=1"]])
def test_command_wrong_usage_ends_with_2(words: list[str]) -> None:
    """No device, an argument without a value, a value without a name."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["command", *words])
    assert caught.value.code == 2
