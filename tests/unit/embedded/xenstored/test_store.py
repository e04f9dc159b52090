# SPDX-License-Identifier: MIT
"""The embedded xenstored's store: tree, permissions, quotas, transactions. No I/O."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from embedded.xenstored import quotas, tree
from embedded.xenstored.history import History
from embedded.xenstored.nodes import (
    OWNER,
    READ,
    WRITE,
    RefusedError,
    absolute,
    absolute_or_special,
    child_of,
    rights,
)
from embedded.xenstored.store import Store
from embedded.xenstored.transaction import Transaction
from embedded.xenstored.tree import View
from shared.xenstore.wire import Perm

HOME = "/local/domain/5"


def code_of(call: object, *arguments: object) -> str:
    """The error a call is refused with."""
    assert callable(call)
    with pytest.raises(RefusedError) as refused:
        call(*arguments)
    return refused.value.code


def store_with_guest() -> Store:
    """A store with the home directory of domain 5, owned by it."""
    store = Store()
    tree.make_node(store, 0, HOME)
    tree.set_permissions(store, 0, HOME, [Perm("n", 5)])
    return store


def content(view: View, path: str = "/") -> dict[str, bytes]:
    """Values of all nodes below a path, found through the lists of children."""
    node = view.get(path)
    assert node is not None
    found = {path: node.value}
    for name in node.children:
        found |= content(view, child_of(path, name))
    return found


@pytest.mark.parametrize(
    "path",
    [b"", b"/a/", b"//a", b"/a//b", b"/a b", b"/a\0", b"/\xc3\xa4", b"/a.b", b"/" + b"x" * 3072,
     b"y" * 2049, b"/local/domain/5/" + b"y" * 2049, b"@introduceDomain"],
)  # fmt: skip
def test_path_invalid_is_einval(path: bytes) -> None:
    """Paths have a fixed alphabet, no empty component and bounded length."""
    assert code_of(absolute, path, 5) == "EINVAL"


def test_path_relative_is_below_the_domains_directory() -> None:
    """A guest's relative path starts at its home; special names stay as they are."""
    assert absolute(b"device/toy", 5) == f"{HOME}/device/toy"
    assert absolute_or_special(b"@releaseDomain", 5) == "@releaseDomain"


@pytest.mark.parametrize(
    ("domid", "expected"),
    [(0, READ | WRITE | OWNER), (5, READ | WRITE | OWNER), (6, READ), (7, 0), (8, WRITE)],
)
def test_rights_owner_listed_and_others(domid: int, expected: int) -> None:
    """Domain 0 and the owner may all, listed domains what is listed, others the owner's letter."""
    perms = (Perm("w", 5), Perm("r", 6), Perm("n", 7))
    assert rights(domid, perms) == expected


def test_write_missing_parents_are_made_with_inherited_permissions() -> None:
    """New nodes are as their parent; what a guest makes belongs to the guest."""
    store = store_with_guest()
    tree.set_permissions(store, 0, HOME, [Perm("n", 5), Perm("r", 0), Perm("r", 7)])
    tree.write_node(store, 0, f"{HOME}/a/b", b"1")
    tree.set_permissions(store, 0, f"{HOME}/a", [Perm("b", 0), Perm("r", 7)])
    tree.write_node(store, 5, f"{HOME}/a/c", b"2")
    perms = {path: node.perms for path, node in store.walk(HOME)}
    assert perms[f"{HOME}/a/b"] == (Perm("n", 5), Perm("r", 0), Perm("r", 7))
    assert perms[f"{HOME}/a/c"] == (Perm("b", 5), Perm("r", 7))


def test_guest_outside_its_directory_is_refused() -> None:
    """Nothing can be read, written, made, removed or given away there, nor its existence seen."""
    store = store_with_guest()
    tree.write_node(store, 0, "/secret/key", b"1")
    for path in ("/secret/key", "/secret/none", "/new"):
        assert code_of(tree.read_node, store, 5, path) == "EACCES"
        assert code_of(tree.write_node, store, 5, path, b"") == "EACCES"
        assert code_of(tree.make_node, store, 5, path) == "EACCES"
        assert code_of(tree.remove_node, store, 5, path) == "EACCES"
        assert code_of(tree.set_permissions, store, 5, path, [Perm("b", 5)]) == "EACCES"
    assert content(store, "/secret") == {"/secret": b"", "/secret/key": b"1"}


def test_guest_may_not_give_its_nodes_away() -> None:
    """The owner stays the owner unless domain 0 says so."""
    store = store_with_guest()
    assert code_of(tree.set_permissions, store, 5, HOME, [Perm("n", 6)]) == "EPERM"
    tree.set_permissions(store, 5, HOME, [Perm("n", 5), Perm("r", 6)])
    assert tree.read_node(store, 6, HOME).value == b""


def test_remove_missing_node_needs_its_parent() -> None:
    """Removing what is gone is fine, below nothing it is ENOENT; the root stays."""
    store = Store()
    assert tree.remove_node(store, 0, "/none") == []
    assert code_of(tree.remove_node, store, 0, "/none/none") == "ENOENT"
    assert code_of(tree.remove_node, store, 0, "/") == "EINVAL"


def test_remove_subtree_tells_of_each_node_exactly() -> None:
    """The node itself is told to watches above, the ones below only to watches on them."""
    store = Store()
    tree.write_node(store, 0, "/a/b/c", b"1")
    fired = tree.remove_node(store, 0, "/a")
    assert [(change.path, change.exact) for change in fired] == [
        ("/a", False),
        ("/a/b", True),
        ("/a/b/c", True),
    ]
    assert store.get("/a/b/c") is None


def test_quota_nodes_and_sizes_bind_guests_only() -> None:
    """Beyond its quota a guest is refused and nothing has changed; domain 0 is exempt."""
    store = store_with_guest()
    for number in range(quotas.NODES_MAX // 10 - 1):
        for leaf in range(9):
            tree.write_node(store, 5, f"{HOME}/{number}/{leaf}", b"")
    while store.owned_by(5) < quotas.NODES_MAX:
        tree.make_node(store, 5, f"{HOME}/x{store.owned_by(5)}")
    before = content(store)
    assert code_of(tree.make_node, store, 5, f"{HOME}/one-more") == "ENOSPC"
    assert code_of(tree.write_node, store, 5, HOME, b"x" * 2049) == "ENOSPC"
    perms = [Perm("n", 5), *(Perm("r", domid) for domid in range(10, 15))]
    assert code_of(tree.set_permissions, store, 5, HOME, perms) == "ENOSPC"
    assert content(store) == before
    tree.write_node(store, 0, f"{HOME}/toolstack", b"x" * 4000)


def test_release_nothing_of_the_domain_is_left() -> None:
    """The next domain of that number finds no nodes and no permissions of its predecessor."""
    store = store_with_guest()
    store.introduce(5)
    tree.write_node(store, 5, f"{HOME}/data", b"1")
    tree.write_node(store, 0, "/backend", b"")
    tree.set_permissions(store, 0, "/backend", [Perm("n", 0), Perm("r", 5), Perm("r", 6)])
    store.release(5)
    assert store.get(HOME) is None
    assert store.owned_by(5) == 0
    assert tree.read_node(store, 0, "/backend").perms == (Perm("n", 0), Perm("r", 6))
    assert 5 not in store.domains


def test_transaction_sees_the_tree_of_its_start() -> None:
    """Changes of others are not seen, in whatever order nodes are first looked at."""
    store = Store()
    tree.write_node(store, 0, "/a", b"old")
    transaction = Transaction(store, 0)
    tree.write_node(store, 0, "/a", b"newer")
    tree.write_node(store, 0, "/a", b"newest")
    tree.write_node(store, 0, "/b", b"")
    assert tree.read_node(transaction, 0, "/a").value == b"old"
    assert transaction.get("/b") is None
    assert code_of(transaction.commit) == "EAGAIN"


def test_transaction_own_changes_are_seen_by_nobody_before_commit() -> None:
    """Writes are private until the commit and public after it; events come with it."""
    store = Store()
    transaction = Transaction(store, 0)
    transaction.note(tree.write_node(transaction, 0, "/a/b", b"1"))
    assert tree.read_node(transaction, 0, "/a/b").value == b"1"
    assert store.get("/a") is None
    assert [change.path for change in transaction.commit()] == ["/a/b"]
    assert tree.read_node(store, 0, "/a/b").value == b"1"


@pytest.mark.parametrize("touch", ["read", "miss", "list", "write", "remove"])
def test_transaction_interfered_with_is_eagain(touch: str) -> None:
    """Whatever it used, a change of it by somebody else makes the commit fail whole."""
    store = Store()
    tree.write_node(store, 0, "/a/x", b"1")
    transaction = Transaction(store, 0)
    tree.write_node(transaction, 0, "/other", b"1")
    if touch == "miss":
        assert transaction.get("/a/y") is None
        tree.write_node(store, 0, "/a/y", b"")
    elif touch == "list":
        tree.read_node(transaction, 0, "/a")
        tree.write_node(store, 0, "/a/y", b"")
    else:
        if touch == "read":
            tree.read_node(transaction, 0, "/a/x")
        elif touch == "write":
            tree.write_node(transaction, 0, "/a/x", b"2")
        else:
            tree.remove_node(transaction, 0, "/a")
        tree.write_node(store, 0, "/a/x", b"3")
    assert code_of(transaction.commit) == "EAGAIN"
    assert store.get("/other") is None


def test_transaction_unrelated_changes_do_not_interfere() -> None:
    """Neighbours may be written, and two transactions below different nodes both commit."""
    store = Store()
    for device in ("/b/1", "/b/2"):
        tree.write_node(store, 0, f"{device}/state", b"1")
    one, two = Transaction(store, 0), Transaction(store, 0)
    tree.write_node(one, 0, "/b/1/state", b"2")
    tree.write_node(two, 0, "/b/2/state", b"2")
    tree.write_node(one, 0, "/b/1/feature", b"2")
    one.commit()
    two.commit()
    assert content(store, "/b/1")["/b/1/feature"] == b"2"
    assert content(store, "/b/2")["/b/2/state"] == b"2"


def test_transaction_removed_and_made_anew_is_replayable() -> None:
    """Parents come before children in the changes, in whatever order the nodes were touched."""
    store = Store()
    store.take_changes()
    transaction = Transaction(store, 0)
    tree.write_node(transaction, 0, "/a/b/c", b"2")
    tree.remove_node(transaction, 0, "/a")
    tree.write_node(transaction, 0, "/a/b/c", b"3")
    transaction.commit()
    made = [change[1] for change in store.take_changes() if change[0] == "put"]
    assert made.index("/a") < made.index("/a/b") < made.index("/a/b/c")
    assert content(store, "/a") == {"/a": b"", "/a/b": b"", "/a/b/c": b"3"}


def test_transaction_quota_of_nodes_holds_at_the_commit() -> None:
    """Two transactions that fit each, but not both, are not both committed."""
    store = store_with_guest()
    for parent in ("one", "two"):
        for sub in range(8):
            tree.make_node(store, 5, f"{HOME}/{parent}/{sub}")
    transactions = {name: Transaction(store, 5) for name in ("one", "two")}
    for parent, transaction in transactions.items():
        for number in range(quotas.NODES_MAX * 6 // 10):
            tree.make_node(transaction, 5, f"{HOME}/{parent}/{number % 8}/{number}")
    transactions["one"].commit()
    assert code_of(transactions["two"].commit) == "ENOSPC"
    assert store.owned_by(5) < quotas.NODES_MAX


def test_transaction_touching_too_much_is_enospc() -> None:
    """What a guest's transaction may look at is bounded."""
    store = store_with_guest()
    transaction = Transaction(store, 5)

    def look() -> Iterator[None]:
        for number in range(quotas.TRANSACTION_NODES_MAX + 2):
            yield transaction.get(f"{HOME}/{number}") and None

    assert code_of(list, look()) == "ENOSPC"


def test_history_full_only_the_oldest_transactions_fail() -> None:
    """What is kept for open transactions is bounded; late ones still get their snapshot."""
    history = History(limit=10)
    history.begin("old", 0)
    for generation in range(1, 8):
        history.replaced("/a", generation, None)
    history.begin("late", 7)
    for generation in range(8, 15):
        history.replaced("/b", generation, None)
    assert len(history) == 10
    assert (history.is_complete(0), history.is_complete(7)) == (False, True)
    history.end("old")
    assert len(history) == 7
    history.end("late")
    assert len(history) == 0


NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(lambda names: "/" + "/".join(names))


class _Peeking:
    """A transaction looked at without it noticing."""

    def __init__(self, transaction: Transaction) -> None:
        self.get = self.peek = transaction.peek
        self.put, self.remove = transaction.put, transaction.remove
        self.owned_by = transaction.owned_by


class TreeMachine(RuleBasedStateMachine):
    """The tree against a dictionary of paths, directly and through one open transaction."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.model = content(self.store)
        self.transaction: Transaction | None = None
        self.snapshot: dict[str, bytes] = {}
        self.at_start: dict[str, bytes] = {}
        self.interfered = False

    def _target(self, inside: bool) -> tuple[View, dict[str, bytes]]:
        if inside and self.transaction is not None:
            return self.transaction, self.snapshot
        self.interfered = True
        return self.store, self.model

    @rule(path=PATHS, value=st.binary(max_size=3), inside=st.booleans())
    def write(self, path: str, value: bytes, inside: bool) -> None:
        """Write a node."""
        view, model = self._target(inside)
        tree.write_node(view, 0, path, value)
        parts = path.split("/")
        for depth in range(2, len(parts)):
            model.setdefault("/".join(parts[:depth]), b"")
        model[path] = value

    @rule(path=PATHS, inside=st.booleans())
    def remove(self, path: str, inside: bool) -> None:
        """Remove a subtree."""
        view, model = self._target(inside)
        if path.rpartition("/")[0] not in ("", *model):
            assert code_of(tree.remove_node, view, 0, path) == "ENOENT"
            return
        tree.remove_node(view, 0, path)
        for gone in [p for p in model if p == path or p.startswith(path + "/")]:
            del model[gone]

    @rule()
    def start(self) -> None:
        """Start a transaction unless there is one."""
        if self.transaction is None:
            self.transaction = Transaction(self.store, 0)
            self.snapshot = dict(self.model)
            self.at_start = dict(self.model)
            self.interfered = False

    @rule(commit=st.booleans())
    def end(self, commit: bool) -> None:
        """End it; a commit takes effect whole or not at all."""
        if self.transaction is None:
            return
        transaction, self.transaction = self.transaction, None
        if not commit:
            transaction.abort()
            return
        try:
            transaction.commit()
        except RefusedError:
            # Without anybody interfering a commit must not fail.
            if not self.interfered:
                raise
            return
        changed = {p: v for p, v in self.snapshot.items() if self.at_start.get(p) != v}
        for path in self.at_start.keys() - self.snapshot.keys():
            self.model.pop(path, None)
        self.model |= changed

    @invariant()
    def same(self) -> None:
        """Tree and dictionary agree, outside and inside the transaction; every node is counted."""
        assert content(self.store) == self.model
        if self.transaction is not None:
            assert content(_Peeking(self.transaction)) == self.snapshot
        assert self.store.owned_by(0) == len(self.store)


TreeMachine.TestCase.settings = settings(
    max_examples=50,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
test_tree_any_sequence_agrees_with_a_dictionary = TreeMachine.TestCase
