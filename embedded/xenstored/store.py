# SPDX-License-Identifier: MIT
"""The committed tree: nodes, who owns how many, which domains are known.

Every change goes through `put`, `remove`, `introduce` or `release`, which keep the count of nodes
per owner, keep former versions for open transactions, and note the change for the journal.
Knows nothing of requests, permissions or quotas (see `embedded.xenstored.tree`). No I/O.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from embedded.xenstored.history import History
from embedded.xenstored.nodes import DOM0, Node, Perms, child_of, name_of, parent_of
from shared.xenstore.wire import Perm

INTRODUCE_DOMAIN: Final = "@introduceDomain"
RELEASE_DOMAIN: Final = "@releaseDomain"
_PRIVATE: Final[Perms] = (Perm("n", DOM0),)
_INITIAL: Final = ("/tool", "/tool/xenstored", "/local", "/local/domain")

PutChange = tuple[str, str, bytes, str]
DropChange = tuple[str, str]
DomainChange = tuple[str, int]
Change = PutChange | DropChange | DomainChange
"""One entry of the journal: ("put", path, value, perms), ("drop", path), ("introduce", domid),
("release", domid)."""


class Store:
    """The committed nodes. Anyone may read; what may be changed is checked elsewhere."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._owned: dict[int, int] = {}
        self._generation = 0
        self.history = History()
        self._changes: list[Change] = []
        self.domains: set[int] = set()
        for path in ("/", INTRODUCE_DOMAIN, RELEASE_DOMAIN):
            self.put(path, Node(b"", _PRIVATE, (), 0))
        for path in _INITIAL:
            self.restore(path, b"", _PRIVATE)
        self._changes.clear()

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def generation(self) -> int:
        """Number of the last change."""
        return self._generation

    def get(self, path: str) -> Node | None:
        """A node, None if there is none."""
        return self._nodes.get(path)

    peek = get

    def put(self, path: str, node: Node) -> None:
        """Replace or make one node. The parent's list of children is the caller's to keep."""
        old = self._nodes.get(path)
        self._generation += 1
        self.history.replaced(path, self._generation, old)
        self._nodes[path] = node._replace(generation=self._generation)
        if old is None:
            self._count(node.perms[0].domid, 1)
        elif old.perms[0].domid != node.perms[0].domid:
            self._count(old.perms[0].domid, -1)
            self._count(node.perms[0].domid, 1)
        # The lists of children follow from the paths: no entry for them.
        if old is None or old.value != node.value or old.perms != node.perms:
            self._changes.append(("put", path, node.value, encode(node.perms)))

    def remove(self, path: str) -> None:
        """Forget one node. Children and the parent's list are the caller's to keep."""
        old = self._nodes.get(path)
        if old is None:
            return
        self._generation += 1
        self.history.replaced(path, self._generation, old)
        del self._nodes[path]
        self._count(old.perms[0].domid, -1)
        self._changes.append(("drop", path))

    def owned_by(self, domid: int) -> int:
        """Number of nodes a domain owns."""
        return self._owned.get(domid, 0)

    def introduce(self, domid: int) -> bool:
        """Make a domain known; False if it was already."""
        if domid in self.domains:
            return False
        self.domains.add(domid)
        self._changes.append(("introduce", domid))
        return True

    def release(self, domid: int) -> None:
        """Forget a domain with the nodes it owns, and what others allowed it to do.

        Otherwise the next domain with this number would inherit all of it.
        """
        self.domains.discard(domid)
        for path, node in list(self._nodes.items()):
            if path not in self._nodes or not any(perm.domid == domid for perm in node.perms):
                continue
            if node.perms[0].domid == domid and path.startswith("/") and path != "/":
                self._remove_tree(path)
            else:
                self._strip(path, domid)
        self._changes.append(("release", domid))

    def take_changes(self) -> list[Change]:
        """What has changed since the last call, in order."""
        changes, self._changes = self._changes, []
        return changes

    # Restoring

    def restore(self, path: str, value: bytes, perms: Perms) -> None:
        """Put a node as a journal tells it, and enter it into its parent."""
        old = self._nodes.get(path)
        self.put(path, Node(value, perms, old.children if old else (), 0))
        if old is None and path.startswith("/") and path != "/":
            self._link(path)

    def restore_drop(self, path: str) -> None:
        """Remove one node as a journal tells it, and take it out of its parent."""
        self.remove(path)
        if path.startswith("/"):
            self._unlink(path)

    def walk(self, path: str = "/") -> Iterator[tuple[str, Node]]:
        """A node and everything below it, parents first, children in their order."""
        stack = [path]
        while stack:
            current = stack.pop()
            node = self._nodes.get(current)
            if node is None:
                continue
            yield current, node
            stack.extend(child_of(current, name) for name in reversed(node.children))

    def dump(self) -> Iterator[Change]:
        """Entries that make an empty store equal to this one."""
        for special in (INTRODUCE_DOMAIN, RELEASE_DOMAIN):
            node = self._nodes[special]
            yield "put", special, node.value, encode(node.perms)
        for path, node in self.walk():
            yield "put", path, node.value, encode(node.perms)
        for domid in sorted(self.domains):
            yield "introduce", domid

    def _count(self, domid: int, step: int) -> None:
        count = self._owned.get(domid, 0) + step
        if count:
            self._owned[domid] = count
        else:
            self._owned.pop(domid, None)

    def _link(self, path: str) -> None:
        parent = self._nodes[parent_of(path)]
        self.put(parent_of(path), parent._replace(children=(*parent.children, name_of(path))))

    def _unlink(self, path: str) -> None:
        parent = self._nodes.get(parent_of(path))
        if parent is not None:
            name = name_of(path)
            children = tuple(child for child in parent.children if child != name)
            self.put(parent_of(path), parent._replace(children=children))

    def _remove_tree(self, path: str) -> None:
        for below, _ in reversed(list(self.walk(path))):
            self.remove(below)
        self._unlink(path)

    def _strip(self, path: str, domid: int) -> None:
        node = self._nodes[path]
        kept = tuple(perm for perm in node.perms[1:] if perm.domid != domid)
        owner = node.perms[0]
        if owner.domid == domid:
            owner = Perm("n", DOM0)
        self.put(path, node._replace(perms=(owner, *kept)))


def encode(perms: Perms) -> str:
    """Permissions as the journal keeps them: `n0,r5`."""
    return ",".join(map(str, perms))


def decode(text: str) -> Perms:
    """Inverse of `encode`."""
    return tuple(Perm.parse(part.encode()) for part in text.split(","))
