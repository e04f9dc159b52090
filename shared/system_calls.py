# SPDX-License-Identifier: MIT
"""System calls that a worker may make, as data that the jail turns into a filter (worker/jail).

A list consists of groups, each with a reason. A call is allowed if one of its rows holds. A call on
no row ends the worker. Use an errno only where honest code, ours or a library's, makes the call and
can do without its result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from shared.errors import BackendBug

INT: Final = 0xFFFFFFFF
"""Mask of an argument that the kernel takes as `int` or `unsigned int`, ignoring the high bits."""
LONG: Final = 0xFFFFFFFF_FFFFFFFF

ARGUMENT_COUNT: Final = 6


@dataclass(frozen=True, slots=True)
class Argument:
    """Holds if the bits under `mask` of argument `index` (from 0) are one of `values`."""

    index: int
    values: tuple[int, ...]
    mask: int = LONG

    def __post_init__(self) -> None:
        sound = 0 <= self.index < ARGUMENT_COUNT and self.values and 0 < self.mask <= LONG
        if not sound or any(value & ~self.mask for value in self.values):
            raise BackendBug(f"filter: {self}: can never hold")


@dataclass(frozen=True, slots=True)
class Call:
    """One way to make a call; several rows of the same name add up."""

    name: str
    when: tuple[Argument, ...] = ()
    note: str = ""
    """`when` in words."""
    error: int = 0
    """Answer with this errno instead; rows that allow the call take precedence."""


@dataclass(frozen=True, slots=True)
class Group:
    """Calls that have the same reason."""

    why: str
    calls: tuple[Call, ...]


def plain(names: str) -> tuple[Call, ...]:
    """Calls without conditions, their names separated by spaces."""
    return tuple(Call(name) for name in names.split())


def ioctls(**numbers: int) -> tuple[Call, ...]:
    """ioctl with these request numbers, given by name."""
    return tuple(
        Call("ioctl", (Argument(1, (number,), INT),), name) for name, number in numbers.items()
    )
