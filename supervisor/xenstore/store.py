# SPDX-License-Identifier: MIT
"""What the supervisor needs of xenstore, as a protocol.

The client in `shared.xenstore` has these methods, and so has the dictionary in unit tests. All
calls raise the errors of `shared.xenstore.errors`; a value is bytes, a path is text.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol, TypeVar

from shared.xenstore.batch import Absent
from shared.xenstore.errors import NoEntryError

T = TypeVar("T")


class Store(Protocol):
    """The connection to xenstored."""

    async def read_or_none(self, path: str, tx: int = 0) -> bytes | None:
        """Value of a node, None if it is not there."""

    async def read_many(
        self, paths: Iterable[str], tx: int = 0, absent: Absent = NoEntryError
    ) -> list[bytes | None]:
        """Values of nodes, None for each that fails with one of `absent`."""

    async def directory(self, path: str, tx: int = 0) -> list[str]:
        """Names of the nodes below; NoEntryError if the node is not there."""

    async def write(self, path: str, value: bytes, tx: int = 0) -> None:
        """Write a node, creating it and its parents."""

    async def write_many(self, nodes: Mapping[str, bytes], tx: int = 0) -> None:
        """Write nodes in this order."""

    async def rm(self, path: str, tx: int = 0) -> None:
        """Remove a node and all below it."""

    async def transact(self, body: Callable[[int], Awaitable[T]]) -> T:
        """Run `body` with a transaction's id, and again from its start while it conflicts."""

    async def watch(self, path: str, token: str, domain: int | Callable[[str], int]) -> None:
        """Register a watch; events carry path and token."""

    async def unwatch(self, path: str, token: str) -> None:
        """Remove a watch."""

    async def is_domain_introduced(self, domid: int) -> bool:
        """Whether xenstored knows the domain."""
