# SPDX-License-Identifier: MIT
"""Steps by Landlock (Linux 5.13): a thread gives up accesses for ever, without privileges.

Facts (Documentation/userspace-api/landlock.rst):
- a ruleset for accesses to files also forbids its thread mount(2) and pivot_root(2), whatever it
  allows. So it comes after the pivot. By then libzmq's threads exist, and it does not reach them: a
  thread can only restrict itself. But the seccomp filter, which is for all threads, forbids the
  same;
- a ruleset without files does not forbid mounting. Kernels with interface 4 (TCP) and 6 (abstract
  sockets, signals) have such rules: they are set at birth, for all later threads.

Reading, writing and connecting are not restricted: in the empty root there is only the bus.
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
"""For each interface version the number of LANDLOCK_ACCESS_FS_* bits, counted from bit 0."""


def file_accesses(abi: int) -> int:
    """All accesses to files that an interface version knows, as a mask."""
    return (1 << max(count for since, count in _FILES.items() if since <= abi)) - 1


@dataclass(frozen=True, slots=True)
class ForbidNetwork:
    """No TCP; with interface 6 also no abstract sockets of others and no signals to them."""

    abi: int
    name: str = "landlock-network"

    def describe(self) -> str:
        more = ", abstract sockets, signals to others" if self.abi >= SCOPES_ABI else ""
        return f"Landlock: no TCP{more}"

    def execute(self) -> None:
        kernel.landlock(network=_TCP, scopes=_SCOPES if self.abi >= SCOPES_ABI else 0)


@dataclass(frozen=True, slots=True)
class ForbidFiles:
    """The serving thread cannot open, make, remove, rename or execute any file."""

    abi: int
    name: str = "landlock-files"

    def describe(self) -> str:
        return "Landlock: no access to files for the serving thread and those it starts"

    def execute(self) -> None:
        kernel.landlock(files=file_accesses(self.abi))
