# SPDX-License-Identifier: MIT
"""The asyncio xenstore client.

- Requests are pipelined and time-limited; cancelling one is safe (see `session`).
- Watch events arrive in `client.events`, coalesced and fair between domains (see `watches`).
- When the connection breaks, requests in flight fail at once with `ConnectionLostError`, and so do
  new ones. `keeper` connects again; then `on_reconnect` is called, because everything may have
  changed in between.

No threads; pyxs's Router, Client and Monitor are not used. A client belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from shared.errors import HostError
from shared.xenstore.batch import Absent, answers
from shared.xenstore.errors import (
    AlreadyExistsError,
    ConnectionLostError,
    NoEntryError,
    TooBigError,
    TransactionConflictError,
    WireError,
)
from shared.xenstore.keeper import SessionKeeper
from shared.xenstore.listing import PartialListing, decode_names
from shared.xenstore.session import Session
from shared.xenstore.transport import Target
from shared.xenstore.watches import DomainKey, Watch, WatchQueue, WatchTable
from shared.xenstore.wire import Op, Perm, encode_perms, join_strings, split_strings

T = TypeVar("T")

TRANSACTION_ATTEMPTS: Final = 50
"""Conflicts in a row after which a transaction is given up; each means that another committed."""
TRANSACTIONS_MAX: Final = 8
"""Transactions open at one time; xenstored allows ten for an unprivileged domain."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters since the client was made, and present levels."""

    requests: int
    in_flight: int
    watches: int
    reconnects: int
    events_pending: int
    events_coalesced: int
    events_dropped: int


class XenstoreClient:
    """A connection to xenstored that is restored when it breaks.

    Args:
        target: `SocketTarget` or `DeviceTarget` (see `choose_target`).
        timeout: seconds that one request may take before the connection counts as lost.
        on_reconnect: called (and awaited) after it has connected again.
        on_disconnect: called with the cause when the connection broke.

    Every request raises `ConnectionLostError`, or another `XenstoreError` if xenstored refuses it.
    """

    def __init__(
        self,
        target: Target,
        *,
        timeout: float = 5.0,
        on_reconnect: Callable[[], Awaitable[None] | None] | None = None,
        on_disconnect: Callable[[str], None] | None = None,
    ) -> None:
        self.events = WatchQueue()
        self.on_reconnect = on_reconnect
        self.on_disconnect = on_disconnect
        self._watches = WatchTable()
        self._keeper = SessionKeeper(
            target,
            timeout=timeout,
            watches=self._watches,
            on_event=self._on_event,
            on_lost=self._disconnected,
            on_back=self._reconnected,
        )
        self._transactions = asyncio.Semaphore(TRANSACTIONS_MAX)

    # The connection

    @property
    def connected(self) -> bool:
        """Whether requests can be made now: connected, all watches registered."""
        return self._keeper.session is not None

    async def connect(self) -> None:
        """Connect, and stay connected until `close`.

        Raises:
            HostError: can't connect; names the path and the remedy.
        """
        self._keeper.open()

    async def close(self) -> None:
        """Disconnect for good. Requests in flight fail. Idempotent."""
        await self._keeper.close()

    def statistics(self) -> Statistics:
        """Counters and levels."""
        session = self._keeper.session
        return Statistics(
            requests=self._keeper.requests,
            in_flight=session.in_flight if session else 0,
            watches=len(self._watches),
            reconnects=self._keeper.reconnects,
            events_pending=len(self.events),
            events_coalesced=self.events.coalesced,
            events_dropped=self.events.dropped,
        )

    # Nodes

    async def read(self, path: str, tx: int = 0) -> bytes:
        """Value of a node; `NoEntryError` if there is none."""
        return await self._path_request(Op.READ, path, tx)

    async def read_or_none(self, path: str, tx: int = 0) -> bytes | None:
        """Value of a node, None if there is none."""
        try:
            return await self._path_request(Op.READ, path, tx)
        except NoEntryError:
            return None

    async def read_many(
        self, paths: Iterable[str], tx: int = 0, absent: Absent = NoEntryError
    ) -> list[bytes | None]:
        """Values of nodes, requested at once; None for each that is refused with `absent`."""
        return await answers((self._path_request(Op.READ, path, tx) for path in paths), absent)

    async def write(self, path: str, value: bytes, tx: int = 0) -> None:
        """Write a node (an empty value is a value); missing parents are made."""
        await self._request(Op.WRITE, join_strings(Op.WRITE, path) + value, tx)

    async def write_many(self, nodes: Mapping[str, bytes], tx: int = 0) -> None:
        """Write nodes in this order, all at once. Without a transaction some may stay unwritten."""
        await answers(
            self._request(Op.WRITE, join_strings(Op.WRITE, path) + value, tx)
            for path, value in nodes.items()
        )

    async def mkdir(self, path: str, tx: int = 0) -> None:
        """Make a node with an empty value unless it exists; missing parents are made."""
        await self._path_request(Op.MKDIR, path, tx)

    async def rm(self, path: str, tx: int = 0) -> None:
        """Remove a node and everything below; fine if only its parent exists."""
        await self._path_request(Op.RM, path, tx)

    async def directory(self, path: str, tx: int = 0) -> list[str]:
        """Names of all children of a node."""
        try:
            return decode_names(await self._path_request(Op.DIRECTORY, path, tx))
        except TooBigError:
            pass
        listing = PartialListing(path)
        while not listing.complete:
            arguments = join_strings(Op.DIRECTORY_PART, path, str(listing.offset))
            listing.add(await self._request(Op.DIRECTORY_PART, arguments, tx))
        return listing.names()

    async def get_perms(self, path: str, tx: int = 0) -> list[Perm]:
        """Permissions of a node, the owner's entry first."""
        reply = await self._path_request(Op.GET_PERMS, path, tx)
        try:
            return [Perm.parse(text) for text in split_strings(reply)]
        except ValueError as error:
            raise WireError(f"xenstore get perms: {path}: {error}") from None

    async def set_perms(self, path: str, perms: Sequence[Perm], tx: int = 0) -> None:
        """Set the permissions of a node, the owner's entry first."""
        payload = join_strings(Op.SET_PERMS, path) + encode_perms(perms)
        await self._request(Op.SET_PERMS, payload, tx)

    # Domains

    async def get_domain_path(self, domid: int) -> str:
        """Home directory of a domain, `/local/domain/<domid>`."""
        reply = await self._path_request(Op.GET_DOMAIN_PATH, str(domid))
        return reply.rstrip(b"\0").decode("ascii", "backslashreplace")

    async def is_domain_introduced(self, domid: int) -> bool:
        """Whether xenstored knows the domain."""
        return (await self._path_request(Op.IS_DOMAIN_INTRODUCED, str(domid))).startswith(b"T")

    async def introduce(self, domid: int, mfn: int = 0, port: int = 0) -> None:
        """Tell xenstored of a new domain (privileged)."""
        arguments = join_strings(Op.INTRODUCE, str(domid), str(mfn), str(port))
        await self._request(Op.INTRODUCE, arguments)

    async def release(self, domid: int) -> None:
        """Tell xenstored that a domain is gone (privileged)."""
        await self._path_request(Op.RELEASE, str(domid))

    # Transactions

    async def transact(
        self, body: Callable[[int], Awaitable[T]], attempts: int = TRANSACTION_ATTEMPTS
    ) -> T:
        """Await `body` with a transaction's id until its commit has no conflict.

        `body` may run several times, so it must only use the transaction. An exception that leaves
        it, a cancellation too, aborts the transaction.

        Raises:
            HostError: `attempts` conflicts in a row.
        """
        for _ in range(attempts):
            async with self._transactions:
                session = self._usable(Op.TRANSACTION_START, "-")

                def undo(reply: bytes, session: Session = session) -> None:
                    session.send(Op.TRANSACTION_END, b"F\0", _transaction_id(reply))

                tx = _transaction_id(await session.request(Op.TRANSACTION_START, b"\0", 0, undo))
                try:
                    result = await body(tx)
                except TransactionConflictError:
                    session.send(Op.TRANSACTION_END, b"F\0", tx)
                    continue
                except BaseException:
                    session.send(Op.TRANSACTION_END, b"F\0", tx)
                    raise
                try:
                    await session.request(Op.TRANSACTION_END, b"T\0", tx)
                except TransactionConflictError:
                    continue
                return result
        raise HostError(
            f"xenstore transaction: {self._keeper.target.path}: {attempts} conflicts in a row"
        )

    # Watches

    async def watch(self, path: str, token: str, domain: DomainKey) -> None:
        """Register a watch; its events arrive in `events`, a first one at once.

        `domain` is the domain that the events belong to, or a function that finds it in an event's
        path (if it raises ValueError or LookupError, there is none).

        Raises:
            AlreadyExistsError: this path is already watched with this token.
        """
        payload = join_strings(Op.WATCH, path, token)
        session = self._usable(Op.WATCH, path)
        if self._watches.get(path, token) is not None:
            raise AlreadyExistsError(Op.WATCH.label, path, "EEXIST")
        watch = Watch(path, token, domain)
        # Added first: the first event may arrive together with the answer.
        self._watches.add(watch)

        def undo(_: bytes) -> None:
            session.send(Op.UNWATCH, payload)

        try:
            await session.request(Op.WATCH, payload, 0, undo)
        except BaseException:
            self._forget_watch(watch)
            raise

    async def unwatch(self, path: str, token: str) -> None:
        """Remove a watch; `events` gives no event of it afterwards.

        Without a connection, the watch is just not registered again.

        Raises:
            NoEntryError: there is no such watch.
        """
        watch = self._watches.get(path, token)
        if watch is None:
            raise NoEntryError(Op.UNWATCH.label, path, "ENOENT")
        self._forget_watch(watch)
        if self.connected:
            with contextlib.suppress(ConnectionLostError):
                await self._request(Op.UNWATCH, join_strings(Op.UNWATCH, path, token))

    def _forget_watch(self, watch: Watch) -> None:
        self._watches.remove(watch)
        self.events.forget(watch)

    def _on_event(self, untrusted_path: str, token: str) -> None:
        watch = self._watches.find(untrusted_path, token)
        if watch is not None:
            self.events.put(watch, untrusted_path)

    # Plumbing

    def _usable(self, op: Op, subject: str) -> Session:
        session = self._keeper.session
        if session is None:
            raise ConnectionLostError(op.label, subject, "not connected to xenstored")
        return session

    def _request(self, op: Op, payload: bytes, tx: int = 0) -> asyncio.Future[bytes]:
        subject = "" if self.connected else payload.split(b"\0", 1)[0].decode("ascii")
        return self._usable(op, subject).request(op, payload, tx)

    def _path_request(self, op: Op, path: str, tx: int = 0) -> asyncio.Future[bytes]:
        return self._request(op, join_strings(op, path), tx)

    def _disconnected(self, cause: str) -> None:
        if self.on_disconnect is not None:
            self.on_disconnect(cause)

    async def _reconnected(self) -> None:
        if self.on_reconnect is not None:
            result = self.on_reconnect()
            if inspect.isawaitable(result):
                await result


def _transaction_id(reply: bytes) -> int:
    text = reply.rstrip(b"\0")
    if not text.isdigit():
        raise WireError(f"xenstore transaction start: no number: {reply!r}")
    return int(text)
