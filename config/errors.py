# SPDX-License-Identifier: MIT
"""What is wrong with a configuration file, where, and what would be right.

A file is checked to its end, so one error carries every problem found. The package imports
nothing of ours; the callers turn this error into the one with the operator's blame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to change in the file."""

    file: str
    line: int
    """Counted from 1; 0 when it is the file as a whole."""
    key: str
    """Dotted path of the key, for instance `limits.parallel_starts`; "" for the file."""
    text: str
    """What is wrong and what is allowed."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.key}: {self.text}" if self.key else f"{place}: {self.text}"


class ConfigFileError(ValueError):
    """The file cannot be used.

    Attributes:
        problems: all of them, in the order of the file; never empty.
        file, line, key: those of the first.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line))
        self.file = self.problems[0].file
        self.line = self.problems[0].line
        self.key = self.problems[0].key
        super().__init__("\n".join(str(problem) for problem in self.problems))
