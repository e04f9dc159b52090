# SPDX-License-Identifier: MIT
"""What a device type's commands print with; the command line implements it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Column(NamedTuple):
    """A column's heading; `right` for numbers."""

    heading: str
    right: bool = False


class Console(Protocol):
    """Makes every text harmless for terminals before it prints it."""

    def lines(self, *texts: str) -> None:
        """Print lines to standard output."""

    def table(self, title: str, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
        """Print a table; without a title if it is empty."""

    def json(self, data: object) -> None:
        """Print data (also msgspec structures) for machines."""

    def note(self, text: str) -> None:
        """Say something on standard error, apart from the output."""

    def fail(self, text: str, hint: str = "") -> int:
        """Say on standard error what failed; returns the exit code 1."""

    @property
    def interactive(self) -> bool:
        """Whether there is a terminal, on which `live` shows something."""

    def live(self, text: str) -> None:
        """Show a text on one line of the terminal, in place of the last; "" clears the line."""

    def size(self, count: float) -> str:
        """Bytes in binary units: `1.5 KiB`."""

    def amount(self, count: float) -> str:
        """A number shortened in thousands: `12.3k`."""

    def duration(self, seconds: float) -> str:
        """A time span in its leading units: `3 min 07 s`."""
