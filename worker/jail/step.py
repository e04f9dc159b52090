# SPDX-License-Identifier: MIT
"""What a jail consists of: steps that say what they do and do it.

A step is data until `execute` is called, so a plan can be looked at, compared and printed by who
has no privileges. `describe` names what will be true afterwards, in few words: it is what
`xenbackd show` prints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

NEEDS_ROOT: Final = "needs root"


class LeftOutError(Exception):
    """This kernel cannot do the step; the text says why. Nothing has changed."""


@runtime_checkable
class Step(Protocol):
    """One step."""

    @property
    def name(self) -> str:
        """One word."""

    def describe(self) -> str:
        """What is true afterwards."""

    def execute(self) -> None:
        """Do it.

        Raises:
            LeftOutError: this kernel cannot.
            OSError, BlamedError: it should have worked; the process must not go on.
        """


@dataclass(frozen=True, slots=True)
class LeaveOut:
    """A step of which it is known beforehand that it cannot be done."""

    name: str
    text: str
    reason: str

    def describe(self) -> str:
        return self.text

    def execute(self) -> None:
        raise LeftOutError(self.reason)
