# SPDX-License-Identifier: MIT
"""Carries out requests: from a packet's payload to the answer's, with the events it causes.

One `Client` per connection holds what belongs to it: domain, watches, transactions. No I/O:
sockets and the journal are `embedded.xenstored.server`'s.

Source of the operations and their errors: docs/misc/xenstore.txt, tools/xenstored/core.c.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Protocol

from embedded.xenstored import quotas, tree
from embedded.xenstored.nodes import (
    DOM0,
    RefusedError,
    absolute,
    absolute_or_special,
)
from embedded.xenstored.store import INTRODUCE_DOMAIN, RELEASE_DOMAIN, Store
from embedded.xenstored.transaction import Transaction
from embedded.xenstored.tree import Fired, View
from embedded.xenstored.watch_index import ServerWatch, WatchIndex
from shared.device_id import DOMID_FIRST_RESERVED
from shared.limits import XENSTORE_PAYLOAD_MAX
from shared.xenstore.wire import Op, Perm, encode_perms

OK: Final = b"OK\0"
_NUMBER = re.compile(rb"0|[1-9][0-9]{0,9}")
_TRANSACTION_ID_MAX: Final = 0xFFFFFFFF


class Client:
    """What the server keeps of one connection."""

    def __init__(self, domid: int) -> None:
        self.domid = domid
        self.watches: dict[tuple[str, bytes], ServerWatch[Client]] = {}
        self.transactions: dict[int, Transaction] = {}

    def deliver(self, watch: ServerWatch[Client], payload: bytes) -> None:
        """Send a watch event."""
        raise NotImplementedError


class Domains(Protocol):
    """The side of the server that has a socket for each domain."""

    def open_domain(self, domid: int) -> None:
        """Make the domain's socket."""

    def close_domain(self, domid: int) -> None:
        """Remove the domain's socket and drop its connections."""


class Requests:
    """The operations on one store."""

    def __init__(self, store: Store, domains: Domains) -> None:
        self._store = store
        self._domains = domains
        self._index: WatchIndex[Client] = WatchIndex()
        self._watches_of: dict[int, int] = {}
        self._next_transaction = 1
        self._fired: list[Fired] = []
        self._first_events: list[ServerWatch[Client]] = []

    def handle(self, client: Client, op: int, tx: int, untrusted_payload: bytes) -> bytes:
        """Carry out one request and return the answer's payload.

        The events it causes are kept until `fire`: the answer goes first.

        Raises:
            RefusedError: the answer is an error.
        """
        operation = _OPERATIONS.get(op)
        if operation is None:
            raise RefusedError("ENOSYS")
        return operation(self, client, tx, untrusted_payload)

    def fire(self) -> None:
        """Deliver the events of the last request."""
        if self._first_events:
            first, self._first_events = self._first_events, []
            for watch in first:
                watch.connection.deliver(watch, watch.payload(watch.path))
        if self._fired:
            fired, self._fired = self._fired, []
            for change in fired:
                for watch in self._index.seeing(change):
                    watch.connection.deliver(watch, watch.payload(change.path))

    def forget(self, client: Client) -> None:
        """The connection is gone, and with it its watches and transactions."""
        self._drop_watches(client)
        for transaction in client.transactions.values():
            transaction.abort()
        client.transactions.clear()

    # Nodes

    def _view(self, client: Client, tx: int) -> View:
        if tx == 0:
            return self._store
        try:
            return client.transactions[tx]
        except KeyError:
            raise RefusedError("ENOENT") from None

    def _changed(self, view: View, fired: list[Fired]) -> bytes:
        if isinstance(view, Transaction):
            view.note(fired)
        else:
            self._fired += fired
        return OK

    def _read(self, client: Client, tx: int, payload: bytes) -> bytes:
        path = absolute(_one(payload), client.domid)
        return tree.read_node(self._view(client, tx), client.domid, path).value

    def _directory(self, client: Client, tx: int, payload: bytes) -> bytes:
        path = absolute(_one(payload), client.domid)
        names = _listing(tree.read_node(self._view(client, tx), client.domid, path).children)
        if len(names) > XENSTORE_PAYLOAD_MAX:
            raise RefusedError("E2BIG")
        return names

    def _directory_part(self, client: Client, tx: int, payload: bytes) -> bytes:
        untrusted_path, untrusted_offset = _strings(payload, 2)
        path = absolute(untrusted_path, client.domid)
        offset = _number(untrusted_offset)
        node = tree.read_node(self._view(client, tx), client.domid, path)
        names = _listing(node.children)
        head = b"%d\0" % node.generation
        room = XENSTORE_PAYLOAD_MAX - len(head) - 1
        part = names[offset : offset + room]
        if offset + len(part) >= len(names):
            return head + part + b"\0"
        # Names are sent whole; one is never longer than a path, so at least one fits.
        return head + part[: part.rindex(b"\0") + 1]

    def _write(self, client: Client, tx: int, payload: bytes) -> bytes:
        untrusted_path, separator, value = payload.partition(b"\0")
        if not separator:
            raise RefusedError("EINVAL")
        path = absolute(untrusted_path, client.domid)
        view = self._view(client, tx)
        return self._changed(view, tree.write_node(view, client.domid, path, value))

    def _mkdir(self, client: Client, tx: int, payload: bytes) -> bytes:
        path = absolute(_one(payload), client.domid)
        view = self._view(client, tx)
        return self._changed(view, tree.make_node(view, client.domid, path))

    def _rm(self, client: Client, tx: int, payload: bytes) -> bytes:
        path = absolute(_one(payload), client.domid)
        view = self._view(client, tx)
        return self._changed(view, tree.remove_node(view, client.domid, path))

    def _get_perms(self, client: Client, tx: int, payload: bytes) -> bytes:
        path = absolute_or_special(_one(payload), client.domid)
        return encode_perms(tree.read_node(self._view(client, tx), client.domid, path).perms)

    def _set_perms(self, client: Client, tx: int, payload: bytes) -> bytes:
        untrusted_path, *untrusted_perms = _strings(payload)
        path = absolute_or_special(untrusted_path, client.domid)
        try:
            perms = [Perm.parse(text) for text in untrusted_perms]
        except ValueError:
            raise RefusedError("EINVAL") from None
        view = self._view(client, tx)
        return self._changed(view, tree.set_permissions(view, client.domid, path, perms))

    # Watches

    def _watch(self, client: Client, tx: int, payload: bytes) -> bytes:
        untrusted_path, token = _strings(payload, 2)
        path = absolute_or_special(untrusted_path, client.domid)
        if (path, token) in client.watches:
            raise RefusedError("EEXIST")
        count = self._watches_of.get(client.domid, 0)
        if client.domid != DOM0 and count >= quotas.WATCHES_MAX:
            raise RefusedError("E2BIG")
        cut = 0 if untrusted_path[:1] in (b"/", b"@") else len(path) - len(untrusted_path)
        watch = ServerWatch(client, client.domid, path, token, cut)
        client.watches[path, token] = watch
        self._watches_of[client.domid] = count + 1
        self._index.add(watch)
        self._first_events.append(watch)
        return OK

    def _unwatch(self, client: Client, tx: int, payload: bytes) -> bytes:
        untrusted_path, token = _strings(payload, 2)
        path = absolute_or_special(untrusted_path, client.domid)
        watch = client.watches.pop((path, token), None)
        if watch is None:
            raise RefusedError("ENOENT")
        self._index.remove(watch)
        self._watches_of[client.domid] -= 1
        return OK

    def _reset_watches(self, client: Client, tx: int, payload: bytes) -> bytes:
        # For a guest that has just started (kexec): its predecessor's transactions go too.
        self.forget(client)
        return OK

    def _drop_watches(self, client: Client) -> None:
        for watch in client.watches.values():
            self._index.remove(watch)
        if client.watches:
            self._watches_of[client.domid] -= len(client.watches)
        client.watches.clear()

    # Transactions

    def _transaction_start(self, client: Client, tx: int, payload: bytes) -> bytes:
        if tx:
            raise RefusedError("EBUSY")
        if client.domid != DOM0 and len(client.transactions) >= quotas.TRANSACTIONS_MAX:
            raise RefusedError("ENOSPC")
        number = self._next_transaction
        while number in client.transactions:
            number = number % _TRANSACTION_ID_MAX + 1
        self._next_transaction = number % _TRANSACTION_ID_MAX + 1
        client.transactions[number] = Transaction(self._store, client.domid)
        return b"%d\0" % number

    def _transaction_end(self, client: Client, tx: int, payload: bytes) -> bytes:
        decision = _one(payload)
        if decision not in (b"T", b"F"):
            raise RefusedError("EINVAL")
        transaction = client.transactions.pop(tx, None)
        if transaction is None:
            raise RefusedError("ENOENT")
        if decision == b"T":
            self._fired += transaction.commit()
        else:
            transaction.abort()
        return OK

    # Domains

    def _introduce(self, client: Client, tx: int, payload: bytes) -> bytes:
        arguments = _strings(payload)
        if len(arguments) < 3:
            raise RefusedError("EINVAL")
        domid = _guest_domid(client, arguments[0])
        for argument in arguments[1:3]:
            _number(argument)
        if domid not in self._store.domains:
            self._domains.open_domain(domid)
            self._store.introduce(domid)
            self._fire_special(INTRODUCE_DOMAIN)
        return OK

    def _release(self, client: Client, tx: int, payload: bytes) -> bytes:
        domid = _guest_domid(client, _one(payload))
        if domid not in self._store.domains:
            raise RefusedError("ENOENT")
        self._domains.close_domain(domid)
        self._store.release(domid)
        self._fire_special(RELEASE_DOMAIN)
        return OK

    def _fire_special(self, name: str) -> None:
        node = self._store.get(name)
        assert node is not None
        self._fired.append(Fired(name, exact=True, grants=(node.perms,)))

    def _get_domain_path(self, client: Client, tx: int, payload: bytes) -> bytes:
        return b"/local/domain/%d\0" % _number(_one(payload))

    def _is_domain_introduced(self, client: Client, tx: int, payload: bytes) -> bytes:
        if client.domid != DOM0:
            raise RefusedError("EACCES")  # as oxenstored does
        domid = _number(_one(payload))
        return b"T\0" if domid == DOM0 or domid in self._store.domains else b"F\0"


_OPERATIONS: Final[dict[int, Callable[[Requests, Client, int, bytes], bytes]]] = {
    Op.DIRECTORY: Requests._directory,
    Op.DIRECTORY_PART: Requests._directory_part,
    Op.READ: Requests._read,
    Op.WRITE: Requests._write,
    Op.MKDIR: Requests._mkdir,
    Op.RM: Requests._rm,
    Op.GET_PERMS: Requests._get_perms,
    Op.SET_PERMS: Requests._set_perms,
    Op.WATCH: Requests._watch,
    Op.UNWATCH: Requests._unwatch,
    Op.RESET_WATCHES: Requests._reset_watches,
    Op.TRANSACTION_START: Requests._transaction_start,
    Op.TRANSACTION_END: Requests._transaction_end,
    Op.INTRODUCE: Requests._introduce,
    Op.RELEASE: Requests._release,
    Op.GET_DOMAIN_PATH: Requests._get_domain_path,
    Op.IS_DOMAIN_INTRODUCED: Requests._is_domain_introduced,
}


def _strings(payload: bytes, count: int | None = None) -> list[bytes]:
    """The arguments, each of which must end with a NUL; extra ones after `count` are ignored."""
    if not payload.endswith(b"\0"):
        raise RefusedError("EINVAL")
    strings = payload[:-1].split(b"\0")
    if count is None:
        return strings
    if len(strings) < count:
        raise RefusedError("EINVAL")
    return strings[:count]


def _one(payload: bytes) -> bytes:
    """The only argument."""
    if payload.find(b"\0") != len(payload) - 1 or not payload:
        raise RefusedError("EINVAL")
    return payload[:-1]


def _number(untrusted_text: bytes) -> int:
    if _NUMBER.fullmatch(untrusted_text) is None:
        raise RefusedError("EINVAL")
    return int(untrusted_text)


def _guest_domid(client: Client, untrusted_text: bytes) -> int:
    """Domain number of a privileged request about a guest."""
    if client.domid != DOM0:
        raise RefusedError("EACCES")
    domid = _number(untrusted_text)
    if not 0 < domid < DOMID_FIRST_RESERVED:
        raise RefusedError("EINVAL")
    return domid


def _listing(children: tuple[str, ...]) -> bytes:
    return b"".join([name.encode("ascii") + b"\0" for name in children])
