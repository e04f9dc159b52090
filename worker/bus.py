# SPDX-License-Identifier: MIT
"""The worker's end of the bus: one DEALER socket to the supervisor.

The descriptor of a ZeroMQ socket is edge-triggered, and both receiving and sending can consume the
edge. So before it sleeps on the descriptor, a caller must call `receive` until it returns None, and
again after every send. ZeroMQ chooses the routing id: another process could choose any name that we
could.
"""

from __future__ import annotations

from typing import Any

import zmq

from shared.errors import BackendBug, HostError
from shared.limits import BUS_QUEUE_MAX, SUPERVISOR_MESSAGE_MAX
from shared.messages import Message, ToWorker, decode_to_worker, encode
from shared.worker_spec import WorkerSpec

SEND_TIMEOUT = 5.0
"""Seconds that a message may wait for the supervisor to take it, or for the connection."""
FLUSH_TIMEOUT = 1.0
"""Seconds for the last messages to leave when the socket is closed."""


class Bus:
    """Messages to and from the supervisor, one at a time."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._seq = 0
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, 1)  # otherwise it allocates tables for 1023
        self._socket = self._context.socket(zmq.DEALER)
        for option, value in {
            zmq.LINGER: 0,
            zmq.IMMEDIATE: 1,
            zmq.SNDHWM: BUS_QUEUE_MAX,
            zmq.RCVHWM: BUS_QUEUE_MAX,
            zmq.MAXMSGSIZE: SUPERVISOR_MESSAGE_MAX,
            zmq.SNDTIMEO: int(SEND_TIMEOUT * 1000),
        }.items():
            self._socket.setsockopt(option, value)
        try:
            self._socket.connect(f"ipc://{spec.endpoint}")
        except zmq.ZMQError as error:
            self.close()
            raise HostError(f"bus: {spec.endpoint}: {error}") from error
        self.fileno = int(self._socket.getsockopt(zmq.FD))

    def receive(self) -> ToWorker | None:
        """The next message; None if there is none at the moment.

        Raises:
            BackendBug: the message is not for this worker or does not follow the schema.
        """
        try:
            frames = self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None
        message = decode_to_worker(frames[-1])
        if message.device != self._spec.device or message.generation != self._spec.generation:
            raise BackendBug(f"message to worker: {self._spec.device}: for another one: {message}")
        return message

    def send(self, kind: type[Message], **fields: Any) -> None:
        """Send a message that must arrive.

        Raises:
            HostError: the supervisor does not take it.
        """
        if not self._send(kind, fields, 0):
            raise HostError(f"bus: {self._spec.device}: the supervisor takes no messages")

    def offer(self, kind: type[Message], **fields: Any) -> bool:
        """Send a message if it can be sent now; return whether it was sent."""
        return self._send(kind, fields, zmq.NOBLOCK)

    def count_anew(self) -> None:
        """Number the next message 0, because another supervisor listens now."""
        self._seq = 0

    def close(self) -> None:
        """Let the last messages leave, then close. Idempotent."""
        if not self._socket.closed:
            self._socket.close(linger=int(FLUSH_TIMEOUT * 1000))
            self._context.term()

    def _send(self, kind: type[Message], fields: dict[str, Any], flags: int) -> bool:
        message = kind(
            device=self._spec.device, generation=self._spec.generation, seq=self._seq, **fields
        )
        try:
            self._socket.send(encode(message), flags)
        except zmq.Again:
            return False
        # Only sent messages get a number, so a gap means a lost message.
        self._seq += 1
        return True
