# SPDX-License-Identifier: MIT
"""Steps by Landlock (Linux 5.13): accesses that a thread gives up for ever, without privileges.

Facts (Documentation/userspace-api/landlock.rst):
- a ruleset that handles accesses to files forbids its thread mount(2) and pivot_root(2) as well,
  whatever it allows. So it comes after the pivot, where libzmq's threads are there already and
  keep out of it: a thread can only restrict itself. What it forbids the seccomp filter, which is
  all threads', forbids too;
- one that handles no files does not forbid mounting, and kernels of interface 4 (TCP) and 6
  (abstract sockets, signals) know that: it is laid on at birth, for all threads to come.

Reading, writing and connecting to what is there are not handled: there is nothing but the bus.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from worker.jail import kernel

NETWORK_ABI: Final = 4
SCOPES_ABI: Final = 6

_TCP: Final = 0b11
"""LANDLOCK_ACCESS_NET_BIND_TCP, _CONNECT_TCP."""
_SCOPES: Final = 0b11
"""LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET, _SIGNAL."""
_FILES: Final = {1: 13, 2: 14, 3: 15, 5: 16}
"""Number of LANDLOCK_ACCESS_FS_* by the interface that knows so many: the bits from 0 on."""


def file_accesses(abi: int) -> int:
    """All accesses to files that an interface knows, as a mask."""
    return (1 << max(count for since, count in _FILES.items() if since <= abi)) - 1


@dataclass(frozen=True, slots=True)
class ForbidNetwork:
    """No TCP; with interface 6 no abstract sockets of others and no signals to them either."""

    abi: int
    name: str = "landlock-network"

    def describe(self) -> str:
        more = ", abstract sockets, signals to others" if self.abi >= SCOPES_ABI else ""
        return f"Landlock: no TCP{more}"

    def execute(self) -> None:
        kernel.landlock(network=_TCP, scopes=_SCOPES if self.abi >= SCOPES_ABI else 0)


@dataclass(frozen=True, slots=True)
class ForbidFiles:
    """No file can be opened, made, removed, renamed, executed by the thread that serves."""

    abi: int
    name: str = "landlock-files"

    def describe(self) -> str:
        return "Landlock: no access to files for the serving thread and those it starts"

    def execute(self) -> None:
        kernel.landlock(files=file_accesses(self.abi))
