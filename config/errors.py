# SPDX-License-Identifier: MIT
"""The error for a wrong configuration file: each problem, its place, and what is allowed.

A file is checked to its end, so one error carries every problem found. Callers turn it into a
`shared.errors.ConfigError`, which blames the operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to change in the file."""

    file: str
    line: int
    """Counted from 1; 0: the file as a whole."""
    key: str
    """Dotted path of the key, for instance `limits.parallel_starts`; "": the file as a whole."""
    text: str
    """What is wrong and what is allowed."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.key}: {self.text}" if self.key else f"{place}: {self.text}"


class ConfigFileError(ValueError):
    """The file cannot be used.

    Attributes:
        problems: all of them, in the order of the file; never empty.
        file, line, key: those of the first problem.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line))
        self.file = self.problems[0].file
        self.line = self.problems[0].line
        self.key = self.problems[0].key
        super().__init__("\n".join(str(problem) for problem in self.problems))
