# SPDX-License-Identifier: MIT
"""One worker at the other end of the bus: who it is, and which message of it fits.

The first message of a connection must be the Hello (or the Failed, where it got no further) of a
process that we started, for its own device and generation. From then on the connection, which
ZeroMQ names by a routing id it chose itself, stands for that worker, and its messages are numbered
without a gap. A worker of an earlier supervisor may begin with anything. What it says before
`Present`, the answer to `Adopt`, is left out, because `Present` says all of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

import zmq

from shared.device_id import DeviceId
from shared.errors import BackendBug
from shared.messages import Failed, FromWorker, Hello, Present
from shared.ratelimit import RateLimit

MESSAGES_BURST: Final = 256
MESSAGES_PERIOD: Final = 0.02
"""A worker may send so many messages at once and then one per period (seconds), not counting
answers to orders. It needs about one a second; the burst is for what piled up while the supervisor
was stopped."""


class BusListener(Protocol):
    """Who takes the messages of one worker: its link."""

    def worker_said(self, message: FromWorker) -> None:
        """A message that is authentic, well-formed and in sequence; its content is not trusted."""

    def worker_came_back(self) -> None:
        """An earlier supervisor's worker is connected: it can be sent `Adopt`."""

    def worker_broke_protocol(self, error: BackendBug) -> None:
        """The worker sent what no worker of ours sends; it must not live on."""


class Credentials(NamedTuple):
    """Of the process at the other end of a connection, when it connected."""

    pid: int
    uid: int


def credentials(frame: zmq.Frame) -> Credentials:
    """Who sent a frame, as the kernel says: "localhost:UID:GID:PID"; -1 if ZeroMQ does not know."""
    try:
        _, uid, _, pid = str(frame.get("Peer-Address")).split(":")
        return Credentials(int(pid), int(uid))
    except (zmq.ZMQError, ValueError):
        return Credentials(-1, -1)


def _budget() -> RateLimit:
    return RateLimit(MESSAGES_BURST, MESSAGES_PERIOD)


@dataclass(slots=True)
class Peer:
    """What is known of one worker."""

    device: DeviceId
    generation: int
    pid: int
    uid: int
    """User id of its own, in its jail; ours or 0 if it has none."""
    listener: BusListener
    adopting: bool = False
    """It is an earlier supervisor's, and `Present` has not come yet."""
    route: bytes | None = None
    """ZeroMQ's name of its connection; None before its first message."""
    received: int | None = None
    """Number of its last message."""
    sent: int = 0
    budget: RateLimit = field(default_factory=_budget)

    def is_sender(self, sender: Credentials, our_uid: int) -> bool:
        """Whether a connection of its process is its own: as us before its jail, or as itself."""
        return sender.uid in (our_uid, self.uid or our_uid)

    def check(self, route: bytes, message: FromWorker) -> None:
        """Hold a message against what is known of its sender, and note what it tells.

        Raises:
            BackendBug: it does not fit.
        """
        if message.device != self.device or message.generation != self.generation:
            raise BackendBug(f"speaks for {message.device}, generation {message.generation}")
        if self.route is None:
            if not (self.adopting or isinstance(message, Hello | Failed)):
                raise BackendBug(f"{type(message).__name__} before Hello")
            self.route = route
            return
        if route != self.route:
            raise BackendBug("opened a second connection")
        if self.adopting:
            if isinstance(message, Present) and message.seq == 0:
                self.adopting = False
            return
        if isinstance(message, Present):
            raise BackendBug("Present without Adopt")
        assert self.received is not None
        if message.seq != self.received + 1:
            raise BackendBug(f"message {message.seq} after message {self.received}")
