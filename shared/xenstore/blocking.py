# SPDX-License-Identifier: MIT
"""A small synchronous xenstore client for guests, toolstack commands and tests.

One request at a time, each with a time limit; watch events that arrive in between are kept in
order. Not for the supervisor, which must never block (see `shared.xenstore.client`).
"""

from __future__ import annotations

import select
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, Self, TypeVar

from shared.errors import HostError
from shared.xenstore.errors import (
    ConnectionLostError,
    NoEntryError,
    TooBigError,
    TransactionConflictError,
    WireError,
    error_for,
)
from shared.xenstore.listing import PartialListing, decode_names
from shared.xenstore.transport import Connection, DeviceTarget, SocketTarget, Target, Transport
from shared.xenstore.wire import (
    REQUEST_ID_MAX,
    Op,
    Packet,
    PacketReader,
    Perm,
    WatchEvent,
    encode_perms,
    errno_payload,
    join_strings,
    operation_name,
    split_strings,
    subject_of,
)

T = TypeVar("T")

TRANSACTION_ATTEMPTS: Final = 50
"""Conflicts in a row after which a transaction is given up; each means that another committed."""

PIPELINE_MAX: Final = 64
"""Requests sent before their answers are read; far fewer than would make the server wait."""


class BlockingXenstore:
    """A connection to xenstored, opened at once.

    `path` is a socket's path or a target. With `reconnect`, the request (or `wait_event`) that
    finds the connection broken fails; the next one connects again, with all watches registered.

    Methods raise `XenstoreError` (its subclasses tell the codes apart), `ConnectionLostError`
    if the connection broke or no answer came in time, and `HostError` if it can't be opened.
    """

    def __init__(
        self, path: str | Path | Target, timeout: float = 5.0, *, reconnect: bool = False
    ) -> None:
        target = SocketTarget(str(path)) if isinstance(path, str | Path) else path
        self._connection = Connection(target)
        self._timeout = timeout
        self._reconnect = reconnect
        self._watches: dict[tuple[str, str], None] = {}
        self._events: deque[WatchEvent] = deque()
        self._replies: deque[Packet] = deque()
        self._reader = PacketReader()
        self._next_id = 1
        self._opened = False
        self._open()

    # Nodes

    def read(self, path: str, tx: int = 0) -> bytes:
        """Value of a node; `NoEntryError` if there is none."""
        return self._path_request(Op.READ, path, tx)

    def read_or_none(self, path: str, tx: int = 0) -> bytes | None:
        """Value of a node, None if there is none."""
        try:
            return self.read(path, tx)
        except NoEntryError:
            return None

    def read_many(self, paths: Sequence[str], tx: int = 0) -> list[bytes | None]:
        """Values of nodes, None for each that does not exist; pipelined like `write_many`."""
        values: list[bytes | None] = []
        payloads = [join_strings(Op.READ, path) for path in paths]
        for packet, reply in self._exchange(Op.READ, payloads, tx):
            try:
                values.append(self._result(packet, reply))
            except NoEntryError:
                values.append(None)
        return values

    def write(self, path: str, value: bytes | str, tx: int = 0) -> None:
        """Write a node (an empty value is a value); missing parents are made."""
        self.request(Op.WRITE, _written(path, value), tx)

    def write_many(self, nodes: Mapping[str, bytes | str], tx: int = 0) -> None:
        """Write nodes in this order, in one round trip for every `PIPELINE_MAX` of them.

        The first refusal is raised, but the nodes after it may have been written too. So use this
        in a transaction, or for nodes that do not belong together.
        """
        payloads = [_written(path, value) for path, value in nodes.items()]
        for packet, reply in self._exchange(Op.WRITE, payloads, tx):
            self._result(packet, reply)

    def mkdir(self, path: str, tx: int = 0) -> None:
        """Make a node with an empty value unless it exists; missing parents are made."""
        self._path_request(Op.MKDIR, path, tx)

    def rm(self, path: str, tx: int = 0) -> None:
        """Remove a node and everything below; fine if only its parent exists."""
        self._path_request(Op.RM, path, tx)

    def directory(self, path: str, tx: int = 0) -> list[str]:
        """Names of all children of a node."""
        try:
            return decode_names(self._path_request(Op.DIRECTORY, path, tx))
        except TooBigError:
            pass
        listing = PartialListing(path)
        while not listing.complete:
            arguments = join_strings(Op.DIRECTORY_PART, path, str(listing.offset))
            listing.add(self.request(Op.DIRECTORY_PART, arguments, tx))
        return listing.names()

    def get_perms(self, path: str, tx: int = 0) -> list[Perm]:
        """Permissions of a node, the owner's entry first."""
        return [Perm.parse(p) for p in split_strings(self._path_request(Op.GET_PERMS, path, tx))]

    def set_perms(self, path: str, perms: Sequence[Perm | str], tx: int = 0) -> None:
        """Set the permissions of a node; entries may be written as `"r5"`."""
        parsed = [Perm.parse(p.encode()) if isinstance(p, str) else p for p in perms]
        payload = join_strings(Op.SET_PERMS, path) + encode_perms(parsed)
        self.request(Op.SET_PERMS, payload, tx)

    # Transactions

    @contextmanager
    def transaction(self) -> Iterator[int]:
        """Run the block in one transaction, whose id it gets.

        The transaction is committed at the end of the block, and aborted if an exception leaves it.
        `TransactionConflictError` if somebody else interfered; `transact` tries again by itself.
        """
        tx = int(self.request(Op.TRANSACTION_START, b"\0").rstrip(b"\0"))
        try:
            yield tx
        except BaseException:
            # The server aborts it with the connection anyway; the first error counts.
            with suppress(HostError):
                self.request(Op.TRANSACTION_END, b"F\0", tx)
            raise
        self.request(Op.TRANSACTION_END, b"T\0", tx)

    def transact(self, body: Callable[[int], T], attempts: int = TRANSACTION_ATTEMPTS) -> T:
        """Call `body` with a transaction's id until its commit has no conflict.

        Raises:
            HostError: `attempts` conflicts in a row.
        """
        for _ in range(attempts):
            try:
                with self.transaction() as tx:
                    return body(tx)
            except TransactionConflictError:
                continue
        raise HostError(
            f"xenstore transaction: {self._connection.path}: {attempts} conflicts in a row"
        )

    # Watches

    def watch(self, path: str, token: str) -> None:
        """Register a watch; a first event comes at once."""
        self.request(Op.WATCH, join_strings(Op.WATCH, path, token))
        self._watches[path, token] = None

    def unwatch(self, path: str, token: str) -> None:
        """Remove a watch; events that are queued already still come."""
        self._watches.pop((path, token), None)
        self.request(Op.UNWATCH, join_strings(Op.UNWATCH, path, token))

    def wait_event(self, timeout: float | None = None) -> WatchEvent | None:
        """The next watch event; None if none came within `timeout` seconds (None: no limit)."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._events:
            if self._connection.transport is None:
                self._open()
                continue
            if not self._receive(deadline):
                return None
        return self._events.popleft()

    # Domains

    def introduce(self, domid: int, mfn: int = 0, port: int = 0) -> None:
        """Tell xenstored of a new domain (privileged)."""
        self.request(Op.INTRODUCE, join_strings(Op.INTRODUCE, str(domid), str(mfn), str(port)))

    def release(self, domid: int) -> None:
        """Tell xenstored that a domain is gone (privileged)."""
        self.request(Op.RELEASE, join_strings(Op.RELEASE, str(domid)))

    def get_domain_path(self, domid: int) -> str:
        """Home directory of a domain, `/local/domain/<domid>`."""
        arguments = join_strings(Op.GET_DOMAIN_PATH, str(domid))
        return self.request(Op.GET_DOMAIN_PATH, arguments).rstrip(b"\0").decode("ascii")

    def is_domain_introduced(self, domid: int) -> bool:
        """Whether xenstored knows the domain."""
        arguments = join_strings(Op.IS_DOMAIN_INTRODUCED, str(domid))
        return self.request(Op.IS_DOMAIN_INTRODUCED, arguments).startswith(b"T")

    # The connection

    def fileno(self) -> int:
        """Descriptor that is readable when an event may have come; a new connection has another."""
        if self._connection.transport is None:
            self._open()
        assert self._connection.transport is not None
        return self._connection.transport.fileno()

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection.transport is not None

    def request(self, op: int, payload: bytes, tx: int = 0) -> bytes:
        """Send any request and return the payload of its answer.

        Hostile tests use it too: of `op` and `payload` only the length is checked.
        """
        packet = self._packet(op, payload, tx)
        deadline = time.monotonic() + self._timeout
        self.send_raw(packet.encode())
        return self._result(packet, self._reply_to(packet, deadline))

    def send_raw(self, data: bytes) -> None:
        """Send any bytes (for hostile tests); returns when all are sent."""
        transport = self._transport()
        deadline = time.monotonic() + self._timeout
        try:
            transport.queue(data)
            while not transport.flush():
                if not _wait(transport, select.POLLOUT, deadline):
                    self._lost(None, f"nothing taken within {self._timeout:g} s")
        except OSError as error:
            self._lost(None, error.strerror or str(error))
        for rq_id, number in transport.take_refused():
            self._replies.append(Packet(Op.ERROR, errno_payload(number), rq_id))

    def close(self) -> None:
        """Close the connection. Idempotent; with `reconnect` a later request opens it again."""
        self._reconnect = False
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _path_request(self, op: Op, path: str, tx: int) -> bytes:
        return self.request(op, join_strings(op, path), tx)

    def _exchange(self, op: Op, payloads: Sequence[bytes], tx: int) -> list[tuple[Packet, Packet]]:
        """Send many requests before reading their answers; return pairs of both."""
        pairs: list[tuple[Packet, Packet]] = []
        at_once = 1 if isinstance(self._connection.target, DeviceTarget) else PIPELINE_MAX
        for start in range(0, len(payloads), at_once):
            some = payloads[start : start + at_once]
            packets = [self._packet(op, payload, tx) for payload in some]
            deadline = time.monotonic() + self._timeout
            self.send_raw(b"".join(packet.encode() for packet in packets))
            pairs += [(packet, self._reply_to(packet, deadline)) for packet in packets]
        return pairs

    def _packet(self, op: int, payload: bytes, tx: int) -> Packet:
        if self._connection.transport is None:
            self._open()
        rq_id = self._next_id
        self._next_id = rq_id % REQUEST_ID_MAX + 1
        return Packet(op, payload, rq_id, tx)

    def _reply_to(self, request: Packet, deadline: float) -> Packet:
        while True:
            while self._replies:
                reply = self._replies.popleft()
                # Kernels before 4.11 answer WATCH and UNWATCH with a request id of 0.
                if reply.rq_id == request.rq_id or (reply.op == request.op and reply.rq_id == 0):
                    return reply
            if not self._receive(deadline):
                self._lost(request, f"no answer within {self._timeout:g} s")

    def _transport(self) -> Transport:
        transport = self._connection.transport
        if transport is None:
            raise ConnectionLostError("connection", self._connection.path, "it is closed")
        return transport

    def _open(self) -> None:
        """Connect, for the first time or again, and register the watches."""
        if self._opened and not self._reconnect:
            self._transport()
        self._connection.open()
        self._opened = True
        self._reader = PacketReader()
        self._replies.clear()
        for path, token in list(self._watches):
            self.request(Op.WATCH, join_strings(Op.WATCH, path, token))

    def _receive(self, deadline: float | None) -> bool:
        """Take in what arrives; False if nothing arrived until the deadline."""
        transport = self._transport()
        try:
            data = transport.receive()
            if data is None:
                if not _wait(transport, select.POLLIN, deadline):
                    return False
                data = transport.receive()
            if data == b"":
                self._lost(None, "xenstored closed the connection")
            packets = self._reader.feed(data or b"")
        except (OSError, WireError) as error:
            self._lost(None, str(error))
        for packet in packets:
            if packet.op == Op.WATCH_EVENT:
                path, token = split_strings(packet.payload)[:2]
                self._events.append(WatchEvent(path.decode("ascii"), token.decode("ascii")))
            else:
                self._replies.append(packet)
        return True

    def _result(self, request: Packet, reply: Packet) -> bytes:
        if reply.op == Op.ERROR:
            code = reply.payload.rstrip(b"\0").decode("ascii", "backslashreplace")
            raise error_for(operation_name(request.op), subject_of(request.payload), code)
        if reply.op != request.op:
            self._lost(request, f"the answer is of {operation_name(reply.op)}")
        return reply.payload

    def _lost(self, request: Packet | None, cause: str) -> NoReturn:
        self._connection.close()
        if request is None:
            raise ConnectionLostError("connection", self._connection.path, cause)
        raise ConnectionLostError(operation_name(request.op), subject_of(request.payload), cause)


def _written(path: str, value: bytes | str) -> bytes:
    """Payload of a write."""
    return join_strings(Op.WRITE, path) + (value.encode() if isinstance(value, str) else value)


def _wait(transport: Transport, events: int, deadline: float | None) -> bool:
    poll = select.poll()
    poll.register(transport.fileno(), events)
    if deadline is None:
        return bool(poll.poll())
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
