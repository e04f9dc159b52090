# SPDX-License-Identifier: MIT
"""Which watches see a change: looked up by the path and each path above it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from embedded.xenstored.nodes import READ, rights
from embedded.xenstored.tree import Fired

C = TypeVar("C")


class ServerWatch(Generic[C]):
    """One watch of one connection."""

    __slots__ = ("connection", "cut", "domid", "path", "token")

    def __init__(self, connection: C, domid: int, path: str, token: bytes, cut: int) -> None:
        self.connection = connection
        self.domid = domid
        self.path = path
        self.token = token
        self.cut = cut
        """Characters to take off the front of an event's path: the client wrote a relative one."""

    def payload(self, path: str) -> bytes:
        """Payload of an event for a path."""
        return path[self.cut :].encode("ascii") + b"\0" + self.token + b"\0"


class WatchIndex(Generic[C]):
    """All watches of all connections."""

    def __init__(self) -> None:
        self._by_path: dict[str, list[ServerWatch[C]]] = {}

    def add(self, watch: ServerWatch[C]) -> None:
        """Enter a watch."""
        self._by_path.setdefault(watch.path, []).append(watch)

    def remove(self, watch: ServerWatch[C]) -> None:
        """Take a watch out; it must be in."""
        watches = self._by_path[watch.path]
        watches.remove(watch)
        if not watches:
            del self._by_path[watch.path]

    def seeing(self, fired: Fired) -> Iterator[ServerWatch[C]]:
        """The watches that are to be told of a change."""
        path = fired.path
        while True:
            for watch in self._by_path.get(path, ()):
                if any(rights(watch.domid, perms) & READ for perms in fired.grants):
                    yield watch
            if fired.exact or path == "/" or not path.startswith("/"):
                return
            path = path[: path.rindex("/")] or "/"
