# SPDX-License-Identifier: MIT
"""What the supervisor's parts need of xenstore, as a protocol: the client in `shared.xenstore`
has it, and so has the dictionary the unit tests use.

All calls raise the errors of `shared.xenstore.errors`; a value is bytes, a path is text.
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
        """Values of nodes, None for each that is refused with `absent`."""

    async def directory(self, path: str, tx: int = 0) -> list[str]:
        """Names of the nodes below; NoEntryError if the node is not there."""

    async def write(self, path: str, value: bytes, tx: int = 0) -> None:
        """Write a node, creating it and its parents."""

    async def write_many(self, nodes: Mapping[str, bytes], tx: int = 0) -> None:
        """Write nodes in this order."""

    async def rm(self, path: str, tx: int = 0) -> None:
        """Remove a node and all below it."""

    async def transact(self, body: Callable[[int], Awaitable[T]]) -> T:
        """Run `body` with a transaction's id, again from its start as long as it conflicts."""

    async def watch(self, path: str, token: str, domain: int | Callable[[str], int]) -> None:
        """Register a watch; events carry path and token."""

    async def unwatch(self, path: str, token: str) -> None:
        """Remove a watch."""

    async def is_domain_introduced(self, domid: int) -> bool:
        """Whether xenstored knows the domain."""


class Changed(Protocol):
    """A watch event of the client."""

    @property
    def path(self) -> str:
        """What changed."""

    @property
    def token(self) -> str:
        """Which watch says so."""
