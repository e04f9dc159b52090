# SPDX-License-Identifier: MIT
"""Former versions of nodes, kept as long as an open transaction may need them.

Starting a transaction costs nothing, and a change costs one entry, no matter how many transactions
are open. Bounded: when too much is kept, the oldest goes, and transactions that started before it
count as failed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from operator import itemgetter
from typing import Final

from embedded.xenstored.nodes import Node

ENTRIES_MAX: Final = 20_000
"""Former versions kept. A transaction fails if more than that changes while it is open."""

_generation_of = itemgetter(0)


class History:
    """Versions by path and by the generation that replaced them."""

    def __init__(self, limit: int = ENTRIES_MAX) -> None:
        self._limit = limit
        self._versions: dict[str, list[tuple[int, Node | None]]] = {}
        self._order: deque[tuple[int, str]] = deque()
        self._open: dict[object, int] = {}
        self._floor = 0

    def __len__(self) -> int:
        return len(self._order)

    def begin(self, transaction: object, generation: int) -> None:
        """A transaction starts and must see the tree as of this generation."""
        self._open[transaction] = generation

    def end(self, transaction: object) -> None:
        """It is over: drop what only it needed. Idempotent."""
        if self._open.pop(transaction, None) is None:
            return
        if not self._open:
            self._versions.clear()
            self._order.clear()
            return
        # Transactions start in the order of generations, so the first one is the oldest.
        needed = next(iter(self._open.values()))
        while self._order and self._order[0][0] <= needed:
            self._forget_oldest()

    def replaced(self, path: str, generation: int, old: Node | None) -> None:
        """The change of this generation replaces (or makes, or removes) a node."""
        if not self._open:
            return
        self._versions.setdefault(path, []).append((generation, old))
        self._order.append((generation, path))
        if len(self._order) > self._limit:
            self._floor = self._forget_oldest()

    def is_complete(self, start: int) -> bool:
        """Whether nothing that replaced a version since `start` was forgotten."""
        return start >= self._floor

    def changed_since(self, path: str, start: int) -> bool:
        """Whether a node has changed since."""
        versions = self._versions.get(path)
        return versions is not None and versions[-1][0] > start

    def as_of(self, path: str, start: int, current: Node | None) -> Node | None:
        """The node as it was then; `current` is how it is now."""
        versions = self._versions.get(path)
        if versions is None or versions[-1][0] <= start:
            return current
        return versions[bisect_right(versions, start, key=_generation_of)][1]

    def _forget_oldest(self) -> int:
        generation, path = self._order.popleft()
        versions = self._versions[path]
        del versions[0]
        if not versions:
            del self._versions[path]
        return generation
