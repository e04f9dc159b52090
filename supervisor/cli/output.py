# SPDX-License-Identifier: MIT
"""What the commands print: tables and lines, coloured on a terminal, plain text when piped.

- Piped output has no colours, no boxes and no truncation: aligned columns, two blanks apart.
- Every text goes through `neutral`, so nothing from a guest can act on the terminal; rich gets
  `Text` objects and never interprets markup in them.
- Results go to standard output, errors and hints to standard error.

rich is loaded only for a terminal: a script that asks for `--json` in a loop does not pay for it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TextIO

import msgspec

from shared.untrusted import neutral

if TYPE_CHECKING:
    from rich.console import RenderableType

BAD = "bold red"
WARN = "yellow"
GOOD = "green"
DIM = "dim"


@dataclass(frozen=True, slots=True)
class Cell:
    """A text with a style for terminals (of rich, for instance "bold red")."""

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A column's heading; `right` for numbers; `wrap` lets it take several lines on a terminal."""

    heading: str
    right: bool = False
    wrap: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under headings; a column without any heading shows no heading line."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


Block = Cell | Table
"""A line of text, or a table."""


def table(
    title: str, columns: Sequence[str | Column], rows: Sequence[Sequence[str | Cell]]
) -> None:
    """Print one table. The title is left out if it is empty."""
    show([make_table(title, columns, rows)])


def make_table(
    title: str, columns: Sequence[str | Column], rows: Sequence[Sequence[str | Cell]]
) -> Table:
    """A table of strings or cells, headings or columns."""
    return Table(
        title,
        [Column(one) if isinstance(one, str) else one for one in columns],
        [[Cell(one) if isinstance(one, str) else one for one in row] for row in rows],
    )


def show(blocks: Sequence[Block]) -> None:
    """Print blocks to standard output."""
    if sys.stdout.isatty():
        from rich.console import Console

        console = Console(highlight=False)
        for block in blocks:
            console.print(render(block, console.width))
    else:
        sys.stdout.write("".join(plain(block) for block in blocks))
    sys.stdout.flush()


def print_json(obj: Any) -> None:
    """Print data (also msgspec structures and dataclasses) as JSON, for machines.

    Only ASCII leaves, control characters escaped: harmless on a terminal as well.
    """
    text = json.dumps(msgspec.to_builtins(obj), indent=2, ensure_ascii=True)
    sys.stdout.write(text.replace("\x7f", "\\u007f") + "\n")
    sys.stdout.flush()


def print_json_line(obj: Any) -> None:
    """The same in one line, for streams."""
    text = json.dumps(msgspec.to_builtins(obj), ensure_ascii=True)
    sys.stdout.write(text.replace("\x7f", "\\u007f") + "\n")
    sys.stdout.flush()


def fail(text: str, hint: str = "", code: int = 1) -> int:
    """Say on standard error what failed and what to do about it.

    Args:
        text: one or more lines; each is made harmless.
        hint: the remedy, "" for none.
        code: the exit code.

    Returns:
        `code`, so that a command can end with `return fail(…)`.
    """
    lines = [neutral(line) for line in text.splitlines()] or [""]
    _say(sys.stderr, f"xenbackd: {lines[0]}", BAD)
    for line in lines[1:]:
        _say(sys.stderr, f"          {line}", BAD)
    if hint:
        _say(sys.stderr, f"          {neutral(hint)}", "")
    return code


def _say(file: TextIO, line: str, style: str) -> None:
    if style and file.isatty():
        from rich.console import Console
        from rich.text import Text

        Console(file=file, highlight=False).print(Text(line, style=style), soft_wrap=True)
    else:
        file.write(f"{line}\n")
        file.flush()


def plain(block: Block) -> str:
    """A block as plain text, each line ended."""
    if isinstance(block, Cell):
        return f"{neutral(block.text)}".rstrip() + "\n"
    texts = [[neutral(cell.text) for cell in row] for row in block.rows]
    if any(column.heading for column in block.columns):
        texts.insert(0, [column.heading for column in block.columns])
    widths = [max(map(len, column), default=0) for column in zip(*texts, strict=True)]
    lines = [neutral(block.title)] if block.title else []
    for row in texts:
        cells = [
            text.rjust(width) if column.right else text.ljust(width)
            for text, width, column in zip(row, widths, block.columns, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "".join(f"{line}\n" for line in lines)


def render(block: Block, width: int) -> RenderableType:
    """A block as rich prints it on a terminal of so many columns."""
    from rich.console import Group
    from rich.text import Text

    if isinstance(block, Cell):
        return Text(neutral(block.text), style=block.style)
    parts: list[RenderableType] = [Text(neutral(block.title), style="bold")] if block.title else []
    fixed = sum(_width(block, i) + _GAP for i, one in enumerate(block.columns) if not one.wrap)
    last = len(block.columns) - 1
    if not block.columns[last].wrap or width - fixed >= _WRAP_MIN:
        return Group(*parts, _rich_table(block))
    # Too narrow for a column of long texts: they follow below, each with its row's first cell.
    parts.append(_rich_table(_without_last(block)))
    for row in block.rows:
        if row[last].text:
            line = f"{neutral(row[0].text)}: {neutral(row[last].text)}"
            parts.append(Text(line, style=row[last].style))
    return Group(*parts)


_GAP: Final = 2
"""Blanks between columns."""

_WRAP_MIN: Final = 24
"""Columns of a terminal below which a text in several lines cannot be read."""


def _width(block: Table, column: int) -> int:
    texts = [block.columns[column].heading, *(neutral(row[column].text) for row in block.rows)]
    return max(map(len, texts))


def _without_last(block: Table) -> Table:
    return Table("", block.columns[:-1], [row[:-1] for row in block.rows])


def _rich_table(block: Table) -> RenderableType:
    from rich.table import Table as RichTable
    from rich.text import Text

    result = RichTable(
        box=None,
        padding=(0, _GAP, 0, 0),
        show_header=any(column.heading for column in block.columns),
        header_style="bold",
    )
    for i, column in enumerate(block.columns):
        result.add_column(
            column.heading,
            justify="right" if column.right else "left",
            no_wrap=not column.wrap,
            overflow="fold" if column.wrap else "ellipsis",
            # The first names the row: never shortened.
            min_width=_width(block, i) if i == 0 else None,
        )
    for row in block.rows:
        result.add_row(*(Text(neutral(cell.text), style=cell.style) for cell in row))
    return result
