# SPDX-License-Identifier: MIT
"""One connection of the server: packets in, packets out, both bounded.

A client that does not read its answers is not listened to until it does. Its events wait, at most
one per watch and path; when too many different ones wait, the connection is closed. Nothing a
client sends or fails to read makes the server keep more than `quotas` says. When a domain sends
much at once, only part of it is carried out in one turn; what dom0 sends is carried out at once.
"""

from __future__ import annotations

import socket
from collections import deque
from typing import Final

from embedded.xenstored import quotas
from embedded.xenstored.nodes import DOM0, RefusedError
from embedded.xenstored.requests import Client, Requests
from embedded.xenstored.watch_index import ServerWatch
from shared.limits import XENSTORE_PAYLOAD_MAX
from shared.xenstore.errors import WireError
from shared.xenstore.wire import HEADER, Op, Packet, PacketReader

RECEIVE_SIZE: Final = 64 * 1024


class Connection(Client):
    """A client's socket and what waits in either direction."""

    def __init__(self, sock: socket.socket, domid: int, dirty: dict[Connection, None]) -> None:
        super().__init__(domid)
        self.socket = sock
        self.fd = sock.fileno()
        self.interest = 0
        """Events the poller was last asked for."""
        self.broken = False
        """To be closed: the peer is gone, or is no xenstore client."""
        self._dirty = dirty
        self._reader = PacketReader()
        self._requests: deque[Packet] = deque()
        self._out = bytearray()
        self._events: dict[bytes, None] = {}

    @property
    def wants_read(self) -> bool:
        """Whether more requests can be taken."""
        return not self._requests

    @property
    def waits(self) -> bool:
        """Whether requests wait for the next turn, and not for room."""
        return bool(self._requests) and not self._out

    @property
    def wants_write(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._out)

    def receive(self) -> None:
        """Take what has arrived."""
        try:
            data = self.socket.recv(RECEIVE_SIZE)
            if not data:
                self.broken = True
            self._requests += self._reader.feed(data)
        except BlockingIOError:
            pass
        except (OSError, WireError):
            self.broken = True

    def serve(self, requests: Requests) -> None:
        """Carry out what was received: a turn's worth, as long as there is room for the answers."""
        waiting = self._requests
        left = len(waiting) if self.domid == DOM0 else quotas.REQUESTS_PER_TURN
        while waiting and left and not self.broken and len(self._out) < quotas.OUTPUT_MAX:
            left -= 1
            op, rq_id, tx, _, payload = waiting.popleft()
            try:
                reply = requests.handle(self, op, tx, payload)
            except RefusedError as refusal:
                op, reply = Op.ERROR, refusal.code.encode() + b"\0"
            self._out += HEADER.pack(op, rq_id, tx, len(reply))
            self._out += reply
            requests.fire()
        self._dirty[self] = None

    def deliver(self, watch: ServerWatch[Client], payload: bytes) -> None:
        """Send an event, or keep it if too much waits already."""
        if len(payload) > XENSTORE_PAYLOAD_MAX:
            return
        if self._events or len(self._out) >= quotas.OUTPUT_MAX:
            self._events[payload] = None
            if len(self._events) > quotas.EVENTS_MAX:
                self.broken = True
        else:
            self._append_event(payload)
        self._dirty[self] = None

    def send(self) -> None:
        """Send what goes without waiting."""
        try:
            while self._out and not self.broken:
                del self._out[: self.socket.send(self._out)]
                while self._events and len(self._out) < quotas.OUTPUT_MAX:
                    payload = next(iter(self._events))
                    del self._events[payload]
                    self._append_event(payload)
        except BlockingIOError:
            pass
        except OSError:
            self.broken = True

    def _append_event(self, payload: bytes) -> None:
        self._out += HEADER.pack(Op.WATCH_EVENT, 0, 0, len(payload))
        self._out += payload
