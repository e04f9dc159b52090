# SPDX-License-Identifier: MIT
"""The journal: what was recorded is there again, whatever happened to the file's end."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedded.xenstored import journal as module
from embedded.xenstored import tree
from embedded.xenstored.journal import Journal
from embedded.xenstored.store import Change, Store
from embedded.xenstored.transaction import Transaction
from shared.errors import HostError
from shared.xenstore.wire import Perm


def load(path: Path) -> tuple[Journal, Store]:
    """A journal and the store it tells of."""
    journal, store = Journal(path), Store()
    journal.load(store)
    return journal, store


def save(journal: Journal, store: Store) -> None:
    """Record what has changed and write it."""
    journal.record(store.take_changes())
    journal.flush(store)


def state(store: Store) -> list[Change]:
    """All of a store in comparable form."""
    return list(store.dump())


def fill(store: Store) -> None:
    """Nodes, permissions, domains, removals and a transaction."""
    tree.write_node(store, 0, "/b/two", b"\0\xff")
    tree.write_node(store, 0, "/b/one", b"")
    tree.write_node(store, 0, "/a/x/y", b"1")
    tree.set_permissions(store, 0, "/a/x", [Perm("n", 5), Perm("r", 6)])
    tree.set_permissions(store, 0, "@releaseDomain", [Perm("n", 0), Perm("r", 5)])
    for domid in (5, 6):
        store.introduce(domid)
    tree.remove_node(store, 0, "/b/two")
    transaction = Transaction(store, 0)
    tree.remove_node(transaction, 0, "/a")
    tree.write_node(transaction, 0, "/a/x/z", b"3")
    transaction.commit()
    store.release(6)


def test_journal_replayed_store_is_the_same(tmp_path: Path) -> None:
    """After a restart all is as it was, and again after the restart's own rewriting."""
    path = tmp_path / "log"
    journal, store = load(path)
    fill(store)
    save(journal, store)
    journal.close()
    for _ in range(2):
        again, restored = load(path)
        again.close()
        assert state(restored) == state(store)
        assert restored.owned_by(0) == store.owned_by(0)


def test_journal_torn_at_any_byte_keeps_what_is_complete(tmp_path: Path) -> None:
    """Killed while writing: earlier requests are there, the torn one is not, nothing is half."""
    path = tmp_path / "log"
    journal, store = load(path)
    states = [state(store)]
    sizes = [path.stat().st_size]
    for number in range(3):
        tree.write_node(store, 0, f"/n{number}/below", b"v")
        save(journal, store)
        states.append(state(store))
        sizes.append(path.stat().st_size)
    journal.close()
    whole = path.read_bytes()
    for cut in range(sizes[0], len(whole)):
        path.write_bytes(whole[:cut])
        again, restored = load(path)
        again.close()
        complete = sum(size <= cut for size in sizes) - 1
        assert state(restored) == states[complete]


def test_journal_damaged_record_is_logged_and_ends_the_replay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong checksum is not believed, and the operator is told."""
    path = tmp_path / "log"
    journal, store = load(path)
    before = state(store)
    tree.write_node(store, 0, "/a", b"value")
    save(journal, store)
    journal.close()
    damaged = bytearray(path.read_bytes())
    damaged[-3] ^= 0xFF
    path.write_bytes(damaged)
    again, restored = load(path)
    again.close()
    assert state(restored) == before
    assert "damaged" in caplog.text


def test_journal_grown_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file does not grow for ever, and what it tells stays the same."""
    monkeypatch.setattr(module, "GROWTH_MIN", 1000)
    monkeypatch.setattr(module, "GROWTH_FACTOR", 1)
    path = tmp_path / "log"
    journal, store = load(path)
    for number in range(500):
        tree.write_node(store, 0, "/a", b"%d" % number)
        save(journal, store)
        assert path.stat().st_size < 3000
    journal.close()
    again, restored = load(path)
    again.close()
    assert state(restored) == state(store)


def test_journal_foreign_file_is_refused(tmp_path: Path) -> None:
    """A file that is none of ours is not overwritten."""
    path = tmp_path / "log"
    path.write_bytes(b"something of value")
    with pytest.raises(HostError, match="no journal"):
        load(path)
    assert path.read_bytes() == b"something of value"
