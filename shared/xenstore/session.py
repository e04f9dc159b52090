# SPDX-License-Identifier: MIT
"""One connection of the asyncio client, from its opening to its end.

Requests are pipelined: any number may be in flight, each with an id of its own. No task, timer or
system call belongs to a single request. The requests of one turn of the loop leave in one write,
one timer watches the oldest request, and one callback reads.

A session dies once: the peer is gone, a packet is malformed, a request has no answer in time, or
`close` is called. Then every request in flight fails at once with `ConnectionLostError`, and so
does every later one. A session never comes back; the client opens another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

from shared.xenstore.errors import ConnectionLostError, WireError, error_for
from shared.xenstore.transport import Connection, Target, Transport
from shared.xenstore.wire import (
    REQUEST_ID_MAX,
    Op,
    Packet,
    PacketReader,
    errno_payload,
    split_strings,
    subject_of,
)

REQUESTS_MAX: Final = 65536
"""Requests in flight at one time; more would mean that a loop runs wild."""


LATE_READS_MAX: Final = 256
"""Pieces (64 KiB each) to read before a request is given up; a flood must not keep us here."""


class _Pending(NamedTuple):
    op: Op
    payload: bytes
    deadline: float
    future: asyncio.Future[bytes]
    abandoned: Callable[[bytes], None] | None


class Session:
    """A connection with its requests in flight. Opened by the constructor.

    Args:
        target: what to connect to.
        timeout: seconds a request may take.
        on_event: called with path and token of each watch event.
        on_lost: called once with the cause when the session dies by itself.
        first_id: id of the first request; the next session goes on with this one's `next_id`.

    Raises:
        HostError: can't connect; names the path and the remedy.
    """

    def __init__(
        self,
        target: Target,
        *,
        timeout: float,
        on_event: Callable[[str, str], None],
        on_lost: Callable[[str], None],
        first_id: int = 1,
    ) -> None:
        self._timeout = timeout
        self._on_event = on_event
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._reader = PacketReader()
        self._pending: dict[int, _Pending] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._flush_scheduled = False
        self._writer_armed = False
        self._cause: str | None = None
        self._last_answer = 0.0
        self.next_id = first_id
        self.requests = 0
        self._connection = Connection(target)
        self._transport: Transport = self._connection.open()
        self._fd = self._transport.fileno()
        self._loop.add_reader(self._fd, self._readable)

    @property
    def in_flight(self) -> int:
        """Requests without an answer yet."""
        return len(self._pending)

    def request(
        self,
        op: Op,
        payload: bytes,
        tx: int = 0,
        abandoned: Callable[[bytes], None] | None = None,
    ) -> asyncio.Future[bytes]:
        """Send a request; the future gets the answer's payload, or `XenstoreError`.

        Cancelling the future is safe: the answer is dropped when it comes, and its id is not used
        again before that. `abandoned` is then called with the payload of a good answer, to undo
        what the request has done.
        """
        future: asyncio.Future[bytes] = self._loop.create_future()
        if self._cause is not None or len(self._pending) >= REQUESTS_MAX:
            cause = self._cause or f"{REQUESTS_MAX} requests in flight"
            future.set_exception(ConnectionLostError(op.label, subject_of(payload), cause))
            return future
        rq_id = self._take_id()
        packet = Packet(op, payload, rq_id, tx)
        deadline = self._loop.time() + self._timeout
        self._pending[rq_id] = _Pending(op, payload, deadline, future, abandoned)
        self._transport.queue(packet.encode())
        self.requests += 1
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._check_time)
        if not self._flush_scheduled and not self._writer_armed:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)
        return future

    def send(self, op: Op, payload: bytes, tx: int = 0) -> None:
        """Send a request and ignore its outcome."""
        self.request(op, payload, tx).add_done_callback(_ignore)

    def close(self, cause: str = "the connection was closed") -> None:
        """End the session; `on_lost` is not called. Idempotent."""
        if self._cause is not None:
            return
        self._cause = cause
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._connection.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        pending, self._pending = self._pending, {}
        for request in pending.values():
            if not request.future.done():
                request.future.set_exception(
                    ConnectionLostError(request.op.label, subject_of(request.payload), cause)
                )

    def _lose(self, cause: str) -> None:
        if self._cause is None:
            self.close(cause)
            self._on_lost(cause)

    def _take_id(self) -> int:
        # Not 0: older kernels answer every WATCH with it.
        rq_id = self.next_id
        while rq_id in self._pending:
            rq_id = rq_id % REQUEST_ID_MAX + 1
        self.next_id = rq_id % REQUEST_ID_MAX + 1
        return rq_id

    # Called by the loop

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._cause is not None:
            return
        try:
            done = self._transport.flush()
        except OSError as error:
            self._lose(error.strerror or str(error))
            return
        for rq_id, number in self._transport.take_refused():
            self._answer(Packet(Op.ERROR, errno_payload(number), rq_id))
        if not done and not self._writer_armed:
            self._writer_armed = True
            self._loop.add_writer(self._fd, self._flush)
        elif done and self._writer_armed:
            self._writer_armed = False
            self._loop.remove_writer(self._fd)

    def _readable(self) -> bool:
        """Take in one piece of the stream; False if there was nothing."""
        try:
            data = self._transport.receive()
            if data is None:
                return False
            if not data:
                self._lose("xenstored closed the connection")
                return False
            packets = self._reader.feed(data)
        except OSError as error:
            self._lose(error.strerror or str(error))
            return False
        except WireError as error:
            self._lose(str(error))
            return False
        for packet in packets:
            if self._cause is not None:
                return False
            if packet.op == Op.WATCH_EVENT:
                self._event(packet.payload)
            else:
                self._last_answer = self._loop.time()
                self._answer(packet)
        if self._cause is None and self._transport.waiting and not self._writer_armed:
            self._flush()
        return True

    def _check_time(self) -> None:
        # If we were late ourselves, the answers are waiting to be read.
        for _ in range(LATE_READS_MAX):
            if not self._readable():
                break
        self._timer = None
        if self._cause is not None or not self._pending:
            return
        # Ids are given and kept in the order of sending, so the first one is the oldest.
        oldest = next(iter(self._pending.values()))
        due = oldest.deadline
        if self._transport.serial:
            due = max(due, self._last_answer + self._timeout)  # it waited for earlier requests
        if due > self._loop.time():
            self._timer = self._loop.call_at(due, self._check_time)
            return
        self._lose(
            f"no answer to {oldest.op.label} of {subject_of(oldest.payload)} "
            f"within {self._timeout:g} s"
        )

    def _event(self, untrusted_payload: bytes) -> None:
        strings = split_strings(untrusted_payload)
        if len(strings) < 2:
            self._lose("a watch event without path and token")
            return
        path, token = (text.decode("ascii", "backslashreplace") for text in strings[:2])
        self._on_event(path, token)

    def _answer(self, packet: Packet) -> None:
        request = self._pending.pop(packet.rq_id, None)
        if request is None:
            request = self._oldest_of(packet.op)
        if request is None or packet.op not in (Op.ERROR, request.op):
            if request is not None and not request.future.done():
                self._pending[packet.rq_id] = request
            self._lose(f"an answer to nothing: operation {packet.op}, request {packet.rq_id}")
            return
        if packet.op == Op.ERROR:
            if not request.future.done():
                code = packet.payload.rstrip(b"\0").decode("ascii", "backslashreplace")
                request.future.set_exception(
                    error_for(request.op.label, subject_of(request.payload), code)
                )
        elif not request.future.done():
            request.future.set_result(packet.payload)
        elif request.abandoned is not None:
            request.abandoned(packet.payload)

    def _oldest_of(self, op: int) -> _Pending | None:
        """The request of an answer with a foreign id: kernels before 4.11 send such answers."""
        if op not in (Op.WATCH, Op.UNWATCH):
            return None
        for rq_id, request in self._pending.items():
            if request.op == op:
                return self._pending.pop(rq_id)
        return None


def _ignore(future: asyncio.Future[bytes]) -> None:
    """Mark the outcome as seen; otherwise asyncio complains of an exception nobody retrieved."""
    if not future.cancelled():
        future.exception()
