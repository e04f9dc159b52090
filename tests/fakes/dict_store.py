# SPDX-License-Identifier: MIT
"""A xenstore that is a dictionary, for what a toolstack writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from shared.xenstore.errors import NoEntryError

T = TypeVar("T")


class DictStore:
    """Nodes and permissions; transactions that only count."""

    def __init__(self) -> None:
        self.nodes: dict[str, bytes] = {}
        self.perms: dict[str, list[str]] = {}
        self.transactions = 0
        self.outside: list[str] = []
        self.introduced: list[int] = []

    def read_or_none(self, path: str, tx: int = 0) -> bytes | None:
        return self.nodes.get(path)

    def write_many(self, nodes: Mapping[str, bytes | str], tx: int = 0) -> None:
        for path, value in nodes.items():
            self.write(path, value, tx)

    def write(self, path: str, value: bytes | str, tx: int = 0) -> None:
        if not tx:
            self.outside.append(path)
        self._parents(path)
        self.nodes[path] = value.encode() if isinstance(value, str) else value

    def mkdir(self, path: str, tx: int = 0) -> None:
        self._parents(path)
        self.nodes.setdefault(path, b"")

    def rm(self, path: str, tx: int = 0) -> None:
        found = [node for node in self.nodes if node == path or node.startswith(f"{path}/")]
        if not found:
            raise NoEntryError("rm", path, "ENOENT")
        for node in found:
            del self.nodes[node]

    def directory(self, path: str, tx: int = 0) -> list[str]:
        if path not in self.nodes:
            raise NoEntryError("directory", path, "ENOENT")
        below = [node[len(path) + 1 :] for node in self.nodes if node.startswith(f"{path}/")]
        return sorted({node.split("/")[0] for node in below})

    def set_perms(self, path: str, perms: Sequence[str], tx: int = 0) -> None:
        self.perms[path] = list(perms)

    def transact(self, body: Callable[[int], T]) -> T:
        self.transactions += 1
        return body(self.transactions)

    def introduce(self, domid: int, mfn: int = 0, port: int = 0) -> None:
        self.introduced.append(domid)

    def below(self, path: str) -> dict[str, str]:
        """Nodes below a directory that have a value."""
        return {
            node[len(path) + 1 :]: value.decode()
            for node, value in self.nodes.items()
            if node.startswith(f"{path}/") and value
        }

    def _parents(self, path: str) -> None:
        while (path := path.rpartition("/")[0]) and path not in self.nodes:
            self.nodes[path] = b""
