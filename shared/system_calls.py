# SPDX-License-Identifier: MIT
"""System calls a worker may make, as data: rows that a jail turns into a filter (worker/jail).

A list is made of groups with one reason each. A call is allowed if one of its rows holds; what is
on no row ends the worker. Give an errno only where honest code, ours or a library's, asks and goes
on without an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from shared.errors import BackendBug

INT: Final = 0xFFFFFFFF
"""Mask of an argument that the kernel takes as `int` or `unsigned int`: it ignores the rest."""
LONG: Final = 0xFFFFFFFF_FFFFFFFF

ARGUMENT_COUNT: Final = 6


@dataclass(frozen=True, slots=True)
class Argument:
    """Holds if the bits of argument `index` (from 0) that `mask` names are one of `values`."""

    index: int
    values: tuple[int, ...]
    mask: int = LONG

    def __post_init__(self) -> None:
        sound = 0 <= self.index < ARGUMENT_COUNT and self.values and 0 < self.mask <= LONG
        if not sound or any(value & ~self.mask for value in self.values):
            raise BackendBug(f"filter: {self}: can never hold")


@dataclass(frozen=True, slots=True)
class Call:
    """One call; several of the same name add up."""

    name: str
    when: tuple[Argument, ...] = ()
    note: str = ""
    """`when`, for people."""
    error: int = 0
    """Answer with this errno instead; looked at after all that is allowed."""


@dataclass(frozen=True, slots=True)
class Group:
    """Calls with one reason."""

    why: str
    calls: tuple[Call, ...]


def plain(names: str) -> tuple[Call, ...]:
    """Calls without conditions, their names separated by spaces."""
    return tuple(Call(name) for name in names.split())


def ioctls(**numbers: int) -> tuple[Call, ...]:
    """ioctl with these request numbers, by name."""
    return tuple(
        Call("ioctl", (Argument(1, (number,), INT),), name) for name, number in numbers.items()
    )
