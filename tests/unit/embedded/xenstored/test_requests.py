# SPDX-License-Identifier: MIT
"""The embedded xenstored's operations, without sockets: answers, errors, events."""

from __future__ import annotations

import pytest

from embedded.xenstored import quotas
from embedded.xenstored.nodes import RefusedError
from embedded.xenstored.requests import Client, Requests
from embedded.xenstored.store import Store
from embedded.xenstored.watch_index import ServerWatch
from shared.xenstore.wire import Op
from tests.unit.shared.xenstore.xenstore_fake import NoDomains


class Guest(Client):
    """A client that keeps its events."""

    def __init__(self, requests: Requests, domid: int = 0) -> None:
        super().__init__(domid)
        self.requests = requests
        self.events: list[bytes] = []

    def deliver(self, watch: ServerWatch[Client], payload: bytes) -> None:
        self.events.append(payload)

    def __call__(self, op: int, *arguments: bytes, tx: int = 0) -> bytes:
        """Make a request; every argument gets its NUL."""
        return self.raw(op, b"".join(argument + b"\0" for argument in arguments), tx)

    def raw(self, op: int, payload: bytes, tx: int = 0) -> bytes:
        """Make a request with exactly this payload; a refusal comes back as its code."""
        try:
            reply = self.requests.handle(self, op, tx, payload)
        except RefusedError as refusal:
            reply = b"!" + refusal.code.encode()
        self.requests.fire()
        return reply

    def take(self) -> list[bytes]:
        """Events since the last call."""
        events, self.events = self.events, []
        return events


@pytest.fixture
def dom0() -> Guest:
    """Domain 0 on a new store in which domain 5 has its home."""
    client = Guest(Requests(Store(), NoDomains()))
    client(Op.INTRODUCE, b"5", b"0", b"0")
    client(Op.MKDIR, b"/local/domain/5")
    client(Op.SET_PERMS, b"/local/domain/5", b"n5")
    return client


@pytest.fixture
def guest(dom0: Guest) -> Guest:
    """Domain 5."""
    return Guest(dom0.requests, 5)


@pytest.mark.parametrize(
    ("op", "payload", "code"),
    [
        (Op.READ, b"/none\0", b"ENOENT"),
        (Op.READ, b"/a/\0", b"EINVAL"),
        (Op.READ, b"/", b"EINVAL"),
        (Op.READ, b"", b"EINVAL"),
        (Op.READ, b"/\0/\0", b"EINVAL"),
        (Op.WRITE, b"/a", b"EINVAL"),
        (Op.WRITE, b"@introduceDomain\0x", b"EINVAL"),
        (Op.RM, b"/\0", b"EINVAL"),
        (Op.RM, b"/none/none\0", b"ENOENT"),
        (Op.DIRECTORY_PART, b"/\0-1\0", b"EINVAL"),
        (Op.DIRECTORY_PART, b"/\0", b"EINVAL"),
        (Op.SET_PERMS, b"/tool\0", b"EINVAL"),
        (Op.SET_PERMS, b"/tool\0x5\0", b"EINVAL"),
        (Op.WATCH, b"/a\0", b"EINVAL"),
        (Op.UNWATCH, b"/a\0t\0", b"ENOENT"),
        (Op.TRANSACTION_END, b"T\0", b"ENOENT"),
        (Op.TRANSACTION_END, b"X\0", b"EINVAL"),
        (Op.INTRODUCE, b"0\0" b"0\0" b"0\0", b"EINVAL"),
        (Op.INTRODUCE, b"32752\0" b"0\0" b"0\0", b"EINVAL"),
        (Op.INTRODUCE, b"7\0", b"EINVAL"),
        (Op.RELEASE, b"7\0", b"ENOENT"),
        (Op.GET_DOMAIN_PATH, b"x\0", b"EINVAL"),
        (Op.CONTROL, b"print\0", b"ENOSYS"),
        (Op.WATCH_EVENT, b"/\0t\0", b"ENOSYS"),
        (4711, b"", b"ENOSYS"),
    ],
)  # fmt: skip
def test_request_wrong_is_answered_with_its_code(
    dom0: Guest, op: int, payload: bytes, code: bytes
) -> None:
    """Each malformed request has the answer that xenstored gives."""
    assert dom0.raw(op, payload) == b"!" + code


def test_request_in_unknown_transaction_is_enoent(dom0: Guest, guest: Guest) -> None:
    """A transaction belongs to one connection."""
    tx = int(dom0(Op.TRANSACTION_START, b"").rstrip(b"\0"))
    assert dom0(Op.READ, b"/", tx=tx) == b""
    assert guest(Op.READ, b"x", tx=tx) == b"!ENOENT"
    assert dom0(Op.TRANSACTION_START, b"", tx=tx) == b"!EBUSY"


def test_guest_privileged_request_is_eacces(guest: Guest) -> None:
    """Only domain 0 says which domains there are."""
    assert guest(Op.INTRODUCE, b"6", b"0", b"0") == b"!EACCES"
    assert guest(Op.RELEASE, b"5") == b"!EACCES"
    assert guest(Op.IS_DOMAIN_INTRODUCED, b"5") == b"!EACCES"


def test_directory_over_4_kib_is_e2big_and_comes_in_parts(dom0: Guest) -> None:
    """Parts hold whole names; the last one ends with an empty name."""
    for number in range(500):
        dom0(Op.MKDIR, b"/big/node-%05d" % number)
    assert dom0(Op.DIRECTORY, b"/big") == b"!E2BIG"
    names = b""
    while True:
        part = dom0(Op.DIRECTORY_PART, b"/big", b"%d" % len(names))
        assert len(part) <= 4096
        body = part.partition(b"\0")[2]
        if body.endswith(b"\0\0"):
            break
        names += body
    assert (names + body[:-1]).split(b"\0")[:-1] == [b"node-%05d" % n for n in range(500)]
    assert dom0(Op.DIRECTORY_PART, b"/big", b"999999").endswith(b"\0\0")


def test_watch_told_of_itself_below_and_removal_above(dom0: Guest) -> None:
    """At once, for the node, for nodes below, when a node above is removed; not for others."""
    dom0(Op.WATCH, b"/a/b", b"t")
    assert dom0.take() == [b"/a/b\0t\0"]
    dom0(Op.WRITE, b"/a/bc", b"")
    dom0(Op.WRITE, b"/a", b"")
    assert dom0.take() == []
    dom0(Op.WRITE, b"/a/b/c", b"")
    dom0(Op.RM, b"/a/b/c")
    dom0(Op.RM, b"/a")
    assert dom0.take() == [b"/a/b/c\0t\0", b"/a/b/c\0t\0", b"/a/b\0t\0"]
    assert dom0(Op.WATCH, b"/a/b", b"t") == b"!EEXIST"
    dom0(Op.UNWATCH, b"/a/b", b"t")
    dom0(Op.WRITE, b"/a/b", b"")
    assert dom0.take() == []


def test_watch_in_transaction_is_told_at_commit(dom0: Guest) -> None:
    """Events come with the commit, once each; an aborted transaction makes none."""
    dom0(Op.WATCH, b"/a", b"t")
    dom0.take()
    for decision, expected in ((b"F", []), (b"T", [b"/a/x\0t\0", b"/a/y\0t\0"])):
        tx = int(dom0(Op.TRANSACTION_START, b"").rstrip(b"\0"))
        dom0(Op.WRITE, b"/a/x", b"", tx=tx)
        dom0(Op.WRITE, b"/a/y", b"", tx=tx)
        assert dom0.take() == []
        dom0(Op.TRANSACTION_END, decision, tx=tx)
        assert dom0.take() == expected


def test_watch_relative_is_told_relative(dom0: Guest, guest: Guest) -> None:
    """Paths of events are written as the watch was."""
    guest(Op.WATCH, b"device", b"r")
    guest(Op.WATCH, b"/local/domain/5/device", b"a")
    guest(Op.WRITE, b"device/toy", b"")
    assert guest.take() == [
        b"device\0r\0",
        b"/local/domain/5/device\0a\0",
        b"device/toy\0r\0",
        b"/local/domain/5/device/toy\0a\0",
    ]


def test_watch_on_what_may_not_be_read_is_not_told(dom0: Guest, guest: Guest) -> None:
    """A guest learns of nodes it may read, also when that is taken away, and of no others."""
    guest(Op.WATCH, b"/b", b"t")
    guest.take()
    dom0(Op.WRITE, b"/b/secret", b"")
    assert guest.take() == []
    dom0(Op.SET_PERMS, b"/b/secret", b"n0", b"r5")
    dom0(Op.WRITE, b"/b/secret", b"")
    dom0(Op.SET_PERMS, b"/b/secret", b"n0")
    assert guest.take() == [b"/b/secret\0t\0"] * 3
    dom0(Op.WRITE, b"/b/secret", b"")
    assert guest.take() == []


def test_domains_coming_and_going_fire_special_watches(dom0: Guest, guest: Guest) -> None:
    """@introduceDomain and @releaseDomain, for domain 0 and whom it allows."""
    for client in (dom0, guest):
        client(Op.WATCH, b"@introduceDomain", b"i")
        client(Op.WATCH, b"@releaseDomain", b"r")
        client.take()
    assert dom0(Op.SET_PERMS, b"@releaseDomain", b"n0", b"r5") == b"OK\0"
    guest.take()
    dom0.take()
    for _ in range(2):
        dom0(Op.INTRODUCE, b"7", b"0", b"0")
    dom0(Op.RELEASE, b"7")
    assert dom0.take() == [b"@introduceDomain\0i\0", b"@releaseDomain\0r\0"]
    assert guest.take() == [b"@releaseDomain\0r\0"]
    assert guest(Op.GET_PERMS, b"@introduceDomain") == b"!EACCES"
    assert guest(Op.SET_PERMS, b"@releaseDomain", b"b5") == b"!EACCES"


def test_reset_watches_closes_transactions_too(guest: Guest) -> None:
    """A guest that starts anew has nothing open."""
    guest(Op.WATCH, b"x", b"t")
    tx = int(guest(Op.TRANSACTION_START, b"").rstrip(b"\0"))
    assert guest(Op.RESET_WATCHES, b"") == b"OK\0"
    guest.take()
    guest(Op.WRITE, b"x", b"")
    assert guest.take() == []
    assert guest(Op.TRANSACTION_END, b"T", tx=tx) == b"!ENOENT"


def test_quota_watches_and_transactions_bind_guests(dom0: Guest, guest: Guest) -> None:
    """Beyond its quotas a guest is refused, over all its connections; giving back frees them."""
    second = Guest(guest.requests, 5)
    for number in range(quotas.WATCHES_MAX):
        (guest, second)[number % 2](Op.WATCH, b"x", b"%d" % number)
    assert guest(Op.WATCH, b"x", b"more") == b"!E2BIG"
    guest.requests.forget(second)
    assert guest(Op.WATCH, b"x", b"more") == b"OK\0"
    for _ in range(quotas.TRANSACTIONS_MAX):
        assert guest(Op.TRANSACTION_START, b"") != b"!ENOSPC"
    assert guest(Op.TRANSACTION_START, b"") == b"!ENOSPC"
    for number in range(quotas.WATCHES_MAX + 1):
        assert dom0(Op.WATCH, b"/x", b"%d" % number) == b"OK\0"
