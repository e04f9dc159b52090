# SPDX-License-Identifier: MIT
"""What a domain does to the tree: permissions and quotas checked, changes made, events noted.

Works on a `View`: the committed tree itself or a transaction's picture of it. Everything is
checked before the first change, so a refused request leaves everything as it was. No I/O.

Source: tools/xenstored/core.c (do_write, construct_node, do_rm, do_set_perms, fire_watches).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from embedded.xenstored import quotas
from embedded.xenstored.nodes import (
    DOM0,
    OWNER,
    READ,
    WRITE,
    Node,
    Perms,
    RefusedError,
    child_of,
    name_of,
    parent_of,
    rights,
)
from shared.xenstore.wire import Perm


class View(Protocol):
    """A picture of the tree that can be changed."""

    def get(self, path: str) -> Node | None:
        """A node, None if there is none. A transaction that has looked depends on it."""

    def peek(self, path: str) -> Node | None:
        """As `get`, without depending on what was seen."""

    def put(self, path: str, node: Node) -> None:
        """Replace or make one node."""

    def remove(self, path: str) -> None:
        """Forget one node."""

    def owned_by(self, domid: int) -> int:
        """Number of nodes a domain owns."""


class Fired(NamedTuple):
    """A change that watches may see."""

    path: str
    exact: bool
    """Only watches on this very path: it went with a node above, which has its own event."""
    grants: tuple[Perms, ...]
    """Domains that may read by one of these are told: the node's, its former, its parent's."""


def read_node(view: View, domid: int, path: str, needed: int = READ) -> Node:
    """A node the domain has these rights to.

    Raises:
        RefusedError: ENOENT, or EACCES (also for a missing node, if the domain may not know
            that it is missing).
    """
    node = view.get(path)
    if node is not None:
        if rights(domid, node.perms) & needed != needed:
            raise RefusedError("EACCES")
        return node
    if domid != DOM0 and path.startswith("/"):
        _, parent = _nearest(view, path)
        if rights(domid, parent.perms) & needed != needed:
            raise RefusedError("EACCES")
    raise RefusedError("ENOENT")


def write_node(view: View, domid: int, path: str, value: bytes) -> list[Fired]:
    """Write a node, made with its missing parents if need be."""
    node = _existing(view, domid, path)
    if node is None:
        return _create(view, domid, path, value)
    changed = node._replace(value=value)
    _check_size(domid, changed)
    view.put(path, changed)
    return [_fired(view, path, changed)]


def make_node(view: View, domid: int, path: str) -> list[Fired]:
    """Make a node with an empty value; nothing happens if it exists."""
    return [] if _existing(view, domid, path) else _create(view, domid, path, b"")


def remove_node(view: View, domid: int, path: str) -> list[Fired]:
    """Remove a node and all below; nothing happens if only its parent exists."""
    if path == "/":
        raise RefusedError("EINVAL")
    parent_path = parent_of(path)
    try:
        node = read_node(view, domid, path, WRITE)
    except RefusedError as refusal:
        if refusal.code == "ENOENT" and view.get(parent_path) is not None:
            return []
        raise
    doomed = _subtree(view, path, node)
    fired = [_fired(view, path, node)]
    fired += [_fired(view, below, gone, exact=True) for below, gone in doomed[1:]]
    for below, _ in reversed(doomed):
        view.remove(below)
    parent = view.get(parent_path)
    assert parent is not None
    name = name_of(path)
    children = tuple(child for child in parent.children if child != name)
    view.put(parent_path, parent._replace(children=children))
    return fired


def set_permissions(view: View, domid: int, path: str, perms: Sequence[Perm]) -> list[Fired]:
    """Replace the permissions of a node; only its owner and domain 0 may."""
    if not perms:
        raise RefusedError("EINVAL")
    if domid != DOM0 and len(perms) > quotas.PERMISSIONS_MAX:
        raise RefusedError("ENOSPC")
    node = read_node(view, domid, path, WRITE | OWNER)
    if domid != DOM0 and perms[0].domid != node.perms[0].domid:
        raise RefusedError("EPERM")
    changed = node._replace(perms=tuple(perms))
    _check_size(domid, changed)
    view.put(path, changed)
    return [_fired(view, path, changed, former=node.perms)]


def _existing(view: View, domid: int, path: str) -> Node | None:
    """The node if it exists and may be written; None if it may be made."""
    try:
        return read_node(view, domid, path, WRITE)
    except RefusedError as refusal:
        if refusal.code != "ENOENT":
            raise
        return None


def _create(view: View, domid: int, path: str, value: bytes) -> list[Fired]:
    top_path, top = _nearest(view, path)
    below = path[len(top_path) :].lstrip("/").split("/")
    # A new node is as its parent, but a guest owns what it makes.
    owner = top.perms[0] if domid == DOM0 else Perm(top.perms[0].access, domid)
    perms = (owner, *top.perms[1:])
    if domid != DOM0 and view.owned_by(domid) + len(below) > quotas.NODES_MAX:
        raise RefusedError("ENOSPC")
    changes = [(top_path, top._replace(children=(*top.children, below[0])))]
    current = top_path
    for position, name in enumerate(below):
        current = child_of(current, name)
        last = position + 1 == len(below)
        children = () if last else (below[position + 1],)
        changes.append((current, Node(value if last else b"", perms, children, 0)))
    for _, changed in changes:
        _check_size(domid, changed)
    for changed_path, changed in changes:
        view.put(changed_path, changed)
    return [_fired(view, path, changes[-1][1])]


def _nearest(view: View, path: str) -> tuple[str, Node]:
    """The nearest node above that exists; the root always does."""
    current = parent_of(path)
    while True:
        node = view.get(current)
        if node is not None:
            return current, node
        current = parent_of(current)


def _subtree(view: View, path: str, node: Node) -> list[tuple[str, Node]]:
    """A node and all below it, parents first."""
    found = [(path, node)]
    for current, parent in found:
        for name in parent.children:
            below = child_of(current, name)
            child = view.get(below)
            assert child is not None
            found.append((below, child))
    return found


def _fired(
    view: View, path: str, node: Node, *, exact: bool = False, former: Perms | None = None
) -> Fired:
    parent = view.peek(parent_of(path)) if path.startswith("/") else None
    grants = [node.perms]
    if parent is not None:
        grants.append(parent.perms)
    if former is not None:
        grants.append(former)
    return Fired(path, exact, tuple(grants))


def _check_size(domid: int, node: Node) -> None:
    if domid == DOM0:
        return
    names = sum(len(name) + 1 for name in node.children)
    if len(node.value) + 4 * len(node.perms) + names > quotas.ENTRY_SIZE_MAX:
        raise RefusedError("ENOSPC")
