# SPDX-License-Identifier: MIT
"""A transaction: a picture of the tree as it was at the start, with changes of its own.

Snapshot isolation: reads stay consistent, since the store's history keeps what is replaced
meanwhile. The commit succeeds if nobody else has changed a node that the transaction read, looked
for or wrote; otherwise it is EAGAIN and nothing has happened. (A child made or removed is a change
of its parent too.)
"""

from __future__ import annotations

from embedded.xenstored import quotas
from embedded.xenstored.nodes import DOM0, Node, RefusedError
from embedded.xenstored.store import Store
from embedded.xenstored.tree import Fired


class Transaction:
    """One open transaction of one connection; a `View` of the tree."""

    def __init__(self, store: Store, domid: int) -> None:
        self._store = store
        self._domid = domid
        self._start = store.generation
        self._touched: set[str] = set()
        self._own: dict[str, Node | None] = {}
        self._owned: dict[int, int] = {}
        self._fired: list[Fired] = []
        store.history.begin(self, self._start)

    def get(self, path: str) -> Node | None:
        """A node as this transaction sees it."""
        if (
            self._domid != DOM0
            and len(self._touched) >= quotas.TRANSACTION_NODES_MAX
            and path not in self._touched
        ):
            raise RefusedError("ENOSPC")
        return self._look(path)

    def peek(self, path: str) -> Node | None:
        """As `get`, but a change of the node by another client is no conflict."""
        if path in self._own:
            return self._own[path]
        return self._store.history.as_of(path, self._start, self._store.get(path))

    def put(self, path: str, node: Node) -> None:
        """Replace or make a node, for this transaction only so far."""
        # Not `get`: a change of several steps must not stop half-way at the quota.
        self._count(self._look(path), -1)
        self._count(node, 1)
        if self._own.get(path) is None:
            # Moves to the end: a node made again must come after its parent when applied.
            self._own.pop(path, None)
        self._own[path] = node

    def remove(self, path: str) -> None:
        """Forget a node, for this transaction only so far."""
        self._count(self._look(path), -1)
        self._own[path] = None

    def owned_by(self, domid: int) -> int:
        """Number of nodes a domain would own after the commit."""
        return self._store.owned_by(domid) + self._owned.get(domid, 0)

    def note(self, fired: list[Fired]) -> None:
        """Events to be sent at the commit."""
        self._fired += fired

    def abort(self) -> None:
        """Forget everything. Idempotent."""
        self._store.history.end(self)

    def commit(self) -> list[Fired]:
        """Make the changes everybody's; returns the events. The transaction is over either way.

        Raises:
            RefusedError: EAGAIN, another client interfered; ENOSPC, a quota was used up meanwhile.
        """
        history, start = self._store.history, self._start
        conflict = not history.is_complete(start) or any(
            history.changed_since(path, start) for path in self._touched
        )
        history.end(self)
        if conflict:
            raise RefusedError("EAGAIN")
        grows = self._owned.get(self._domid, 0) > 0
        if self._domid != DOM0 and grows and self.owned_by(self._domid) > quotas.NODES_MAX:
            raise RefusedError("ENOSPC")
        for path, node in self._own.items():
            if node is None:
                self._store.remove(path)
        for path, node in self._own.items():
            if node is not None:
                self._store.put(path, node)
        return self._fired

    def _look(self, path: str) -> Node | None:
        self._touched.add(path)
        return self.peek(path)

    def _count(self, node: Node | None, step: int) -> None:
        if node is not None:
            owner = node.perms[0].domid
            self._owned[owner] = self._owned.get(owner, 0) + step
