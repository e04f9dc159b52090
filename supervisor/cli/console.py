# SPDX-License-Identifier: MIT
"""The command line's ways to print, for the commands that device types bring (`guest`)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from shared.untrusted import neutral
from supervisor.cli import output, text

if TYPE_CHECKING:
    from embedded.guest.console import Column


class OutputConsole:
    """`embedded.guest.console.Console` over `output` and `text`."""

    size = staticmethod(text.size)
    amount = staticmethod(text.amount)
    duration = staticmethod(text.duration)

    def lines(self, *texts: str) -> None:
        output.show([output.Cell(one) for one in texts])

    def table(self, title: str, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
        headings = [output.Column(one.heading, right=one.right) for one in columns]
        output.table(title, headings, rows)

    def json(self, data: object) -> None:
        output.print_json(data)

    def note(self, text: str) -> None:
        sys.stderr.write(f"{neutral(text)}\n")

    def fail(self, text: str, hint: str = "") -> int:
        return output.fail(text, hint)

    @property
    def interactive(self) -> bool:
        return sys.stderr.isatty()

    def live(self, text: str) -> None:
        if self.interactive:
            sys.stderr.write(f"\r\x1b[K{neutral(text)}")
            sys.stderr.flush()
