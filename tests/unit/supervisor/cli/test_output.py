# SPDX-License-Identifier: MIT
"""What commands print: aligned and plain when piped, and harmless whatever a guest wrote."""

from __future__ import annotations

import io
import json
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.control import Event
from shared.untrusted import neutral
from supervisor.cli import output
from supervisor.cli.output import Cell, Column, make_table
from supervisor.cli.text import amount, duration, plural, size


class Terminal(io.StringIO):
    """A standard output that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ("plain text, äöü", "plain text, äöü"),
        (r"\x1b[2J\x07", "\x1b[2J\x07"),
        (r"a\x0ab\x0d", "a\nb\r"),
        (r"\u202egpj", "\u202egpj"),
        (r"\x9b31m", "\x9b31m"),
        (r"\ud800", "\ud800"),
        (r"\U000e0001", "\U000e0001"),
    ],
)
def test_neutral_what_a_terminal_acts_on_is_escaped(expected: str, text: str) -> None:
    """Escape sequences, newlines and changes of direction become visible text."""
    assert expected == neutral(text)


@given(st.text())
def test_neutral_any_text_is_one_printable_line(text: str) -> None:
    """No text gets through that is not printable."""
    assert neutral(text).isprintable()


@pytest.mark.parametrize(
    ("expected", "seconds"),
    [
        ("0.0 s", -1),
        ("0.4 s", 0.4),
        ("59 s", 59.9),
        ("3 min 07 s", 187),
        ("2 h 05 min", 7500),
        ("4 d 3 h", 4 * 86400 + 3 * 3600 + 5),
    ],
)
def test_duration_shows_the_leading_units(expected: str, seconds: float) -> None:
    """Time spans are as exact as one needs at a glance."""
    assert expected == duration(seconds)


def test_size_and_amount_change_unit_before_they_round_up() -> None:
    """1000 of a unit is 1.0 of the next."""
    assert (size(512), size(1536), size(1024 * 1024 - 1)) == ("512 B", "1.5 KiB", "1.0 MiB")
    assert (
        amount(0),
        amount(999),
        amount(1000),
        amount(12345),
        amount(999_990),
    ) == ("0", "999", "1.0k", "12.3k", "1.0M")


def test_plural_counts_words() -> None:
    """One thing, many things."""
    assert (plural(1, "device"), plural(0, "device")) == ("1 device", "0 devices")


def test_table_piped_is_aligned_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    """No colours, no boxes, no blanks at line ends; numbers to the right."""
    rows: list[list[str | Cell]] = [[Cell("toy/3/51712", "red"), "7"], ["a\x1b[1m", "12345"]]
    output.table("disks", ["DEVICE", Column("N", right=True)], rows)

    expected = "disks\nDEVICE           N\ntoy/3/51712      7\na\\x1b[1m     12345\n"
    assert expected == capsys.readouterr().out


def test_table_without_headings_shows_no_heading_line() -> None:
    """A list of pairs needs no line above it."""
    assert output.plain(make_table("", ["", ""], [["a", "b"]])) == "a  b\n"


def test_table_without_rows_is_its_heading() -> None:
    """An empty table is no error."""
    assert output.plain(make_table("", ["A", "B"], [])) == "A  B\n"


def test_table_on_a_terminal_takes_no_markup_of_its_content(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Square brackets of a guest's text are text, escape sequences are escaped."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    output.table("", ["A"], [[Cell("[bold]x[/bold]\x1b[31m", "red")]])

    plain = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert r"[bold]x[/bold]\x1b[31m" in plain
    assert "\x1b[" in terminal.getvalue()


def on_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, table: output.Table) -> str:
    """What a terminal of that width shows of a table, without its colours."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    output.show([table])
    text = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def test_table_on_a_wide_terminal_is_one_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fits stands in its column, under a title as long as it likes."""
    table = make_table("a long title", ["A", Column("B", wrap=True)], [["x", "some text"]])

    assert on_terminal(monkeypatch, 80, table) == "a long title\nA  B\nx  some text\n"


def test_table_on_a_narrow_terminal_puts_long_texts_below(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first column is never shortened, and no error is lost for want of room."""
    columns: list[str | Column] = ["DEVICE", "STATE", Column("ERROR", wrap=True)]
    table = make_table("", columns, [["toy/3/51712", "Connected", "no such file"]])
    expected = "DEVICE       STATE\ntoy/3/51712  Connected\ntoy/3/51712: no such file\n"

    assert on_terminal(monkeypatch, 30, table) == expected


def test_print_json_is_ascii_and_reads_back(capsys: pytest.CaptureFixture[str]) -> None:
    """Structures come out as JSON that no terminal acts on."""
    event = Event(seq=1, time="t", kind="k", device="d", text="\x1b\x7f\u202eä")
    output.print_json(event)
    text = capsys.readouterr().out

    assert text.replace("\n", "").isascii()
    assert text.replace("\n", "").isprintable()
    assert json.loads(text)["text"] == "\x1b\x7f\u202eä"


def test_print_json_line_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A stream has one object per line."""
    output.print_json_line({"a": "x\ny"})

    assert capsys.readouterr().out == '{"a": "x\\ny"}\n'


def test_fail_goes_to_standard_error_with_the_hint(capsys: pytest.CaptureFixture[str]) -> None:
    """The message, its further lines and the remedy; the code is handed back."""
    assert output.fail("a\nb\x1b", "do this", 78) == 78

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "xenbackd: a\n          b\\x1b\n          do this\n"
