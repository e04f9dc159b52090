# SPDX-License-Identifier: MIT
"""The steps of a jail: each describes itself and can be executed.

A step is data until `execute` is called, so a plan can be compared and printed without privileges.
`describe` says in few words what will be true afterwards; `xenbackd show` prints it.
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
            LeftOutError: this kernel cannot do it.
            OSError, BlamedError: the step should have worked; the process must not go on.
        """


@dataclass(frozen=True, slots=True)
class LeaveOut:
    """A step that is known in advance to be impossible."""

    name: str
    text: str
    reason: str

    def describe(self) -> str:
        return self.text

    def execute(self) -> None:
        raise LeftOutError(self.reason)
