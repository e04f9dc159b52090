# SPDX-License-Identifier: MIT
"""The ZeroMQ socket that all workers talk to.

Trust: a worker may have been taken over by its guest, and any process that may open the socket's
path can connect. So the kernel says who speaks, not the message: ZeroMQ gives the peer's
credentials (`Peer-Address`, SO_PEERCRED: those of the moment it connected) with each frame. The
sender must be a process that we started, under our user id (before it has entered its jail) or its
own. Which of its messages fit: `supervisor.workers.peer`.

Rules: a message from a worker that does not fit (schema, device, generation, sequence, a second
connection) ends that worker; from a stranger it is dropped. When a worker of an earlier supervisor
connects, its listener is told, which sends `Adopt`. Messages have at most `WORKER_MESSAGE_MAX`
bytes, queues at most `BUS_QUEUE_MAX` messages.

The descriptor of a ZeroMQ socket is edge-triggered: it fires when the socket's state changes, not
while there is something to read. Hence `drain` reads until nothing is left and is called after
every send as well. It gives the loop its turn after `BATCH` messages. After a look that brought
nothing but beats the descriptor is left alone for `REST`: hundreds of idle workers then cost one
wake-up for many beats instead of one for each. There is no rest while a worker's Hello or answer is
due, because a guest may be waiting for it.

Does not know devices or life cycles; it hands decoded messages to a `BusListener`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import zmq

from shared.device_id import DeviceId
from shared.errors import BackendBug, HostError
from shared.limits import BUS_QUEUE_MAX, WORKER_MESSAGE_MAX
from shared.messages import (
    Adopt,
    Beat,
    Command,
    Disconnect,
    Init,
    Initialise,
    Message,
    decode_from_worker,
    encode,
)
from shared.ratelimit import RateLimit
from supervisor.workers.peer import BusListener, Credentials, Peer, credentials

_log = logging.getLogger("xenbackd.bus")

_POLLIN: Final = int(zmq.POLLIN)
_NOBLOCK: Final = int(zmq.NOBLOCK)
"""As plain numbers: arithmetic with zmq's enumerations costs as much as a message."""

_ANSWERED: Final = (Adopt, Init, Initialise, Disconnect)
"""Orders that their worker answers."""

BATCH: Final = 128
"""Messages taken in one turn of the loop."""

REST: Final = 0.02
"""Seconds in which beats pile up; the longest that a message nobody asked for then waits."""

PARKED_MAX: Final = 64
"""Hellos kept of processes whose pid the fork server has not told us yet."""


class Bus:
    """One ROUTER for all workers. Opened and used in the loop's thread."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], path: Path) -> None:
        self._context = context
        self.path = path
        self._clock: Callable[[], float] = time.monotonic
        self._socket: zmq.Socket[bytes] | None = None
        self._by_pid: dict[int, Peer] = {}
        self._by_route: dict[bytes, Peer] = {}
        self._by_device: dict[DeviceId, Peer] = {}
        self._parked: dict[Credentials, tuple[bytes, bytes]] = {}
        self._uid = os.geteuid()
        self._drain_scheduled = False
        self._resting: asyncio.Handle | None = None
        self._due: set[DeviceId] = set()
        """Devices whose worker owes us a Hello or an answer."""
        self._beats = self._others = 0
        """Messages taken since the last look at the descriptor."""
        self._strangers = RateLimit(10, 6.0)
        self.starts_pending: Callable[[], bool] = lambda: False
        """Whether there may be a worker whose pid is not known here yet."""
        self.dropped = 0
        """Messages of strangers and of workers that are over."""

    def open(self) -> None:
        """Bind the socket and listen.

        Raises:
            HostError: the path cannot be bound.
        """
        socket = self._context.socket(zmq.ROUTER)
        # Without MANDATORY a message to a worker that is gone vanishes without a word; HANDOVER
        # stays off, or a second connection could take over the name of the first.
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.MAXMSGSIZE, WORKER_MESSAGE_MAX)
        socket.setsockopt(zmq.RCVHWM, BUS_QUEUE_MAX)
        socket.setsockopt(zmq.SNDHWM, BUS_QUEUE_MAX)
        socket.setsockopt(zmq.LINGER, 0)
        try:
            socket.bind(f"ipc://{self.path}")
        except zmq.ZMQError as error:
            socket.close()
            raise HostError(f"worker socket: {self.path}: {error}") from error
        # For jailed workers that come back; others are kept out by
        # `supervisor.workers.confinement.door`.
        self.path.chmod(0o666 if self._uid == 0 else 0o600)
        self._socket = socket
        asyncio.get_running_loop().add_reader(socket.FD, self._look)

    def close(self) -> None:
        """Stop listening. Idempotent."""
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.FD)
            self._socket.close()
            self._socket = None
            self.path.unlink(missing_ok=True)

    def expect(
        self, device: DeviceId, generation: int, pid: int, uid: int, listener: BusListener
    ) -> None:
        """A worker was forked: its Hello may come. `uid` is 0 if it has none of its own."""
        self._add(Peer(device, generation, pid, uid, listener))

    def adopt(
        self, device: DeviceId, generation: int, pid: int, uid: int, listener: BusListener
    ) -> None:
        """A worker of an earlier supervisor may come back."""
        self._add(Peer(device, generation, pid, uid, listener, adopting=True))

    def _add(self, peer: Peer) -> None:
        self._await(peer.device)
        self._by_pid[peer.pid] = self._by_device[peer.device] = peer
        for sender in [one for one in self._parked if one.pid == peer.pid]:
            parked = self._parked.pop(sender)
            if peer.is_sender(sender, self._uid):
                self._take(peer, *parked)
            else:
                self.dropped += 1

    def forget(self, device: DeviceId) -> None:
        """The worker is dead; what still arrives of it is dropped."""
        peer = self._by_device.pop(device, None)
        self._due.discard(device)
        if peer is not None:
            if self._by_pid.get(peer.pid) is peer:
                del self._by_pid[peer.pid]
            if peer.route is not None:
                self._by_route.pop(peer.route, None)

    def next_seq(self, device: DeviceId) -> int:
        """Sequence number of the next message to a device's worker."""
        return self._by_device[device].sent if device in self._by_device else 0

    def send(self, message: Message) -> bool:
        """Queue a message for the worker of `message.device`.

        Returns whether it was queued: not when the worker has not said Hello, has gone, or has
        left `BUS_QUEUE_MAX` messages unread.
        """
        peer = self._by_device.get(message.device)
        if self._socket is None or peer is None or peer.route is None:
            return False
        try:
            self._socket.send_multipart([peer.route, encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise HostError(f"message to worker: {message.device}: {error}") from error
            return False
        finally:
            self._schedule_drain()
        peer.sent = message.seq + 1
        if isinstance(message, _ANSWERED):
            # A guest decides how often its worker is asked: the answer does not count against it.
            peer.budget.give()
            self._await(message.device)
        elif isinstance(message, Command):
            # Nobody rests less for it: a worker may never answer.
            peer.budget.give()
        return True

    # --- receiving

    def _await(self, device: DeviceId) -> None:
        self._due.add(device)
        if self._resting is not None:
            # Not now: the sender is not prepared for messages that are handed out meanwhile.
            self._resting.cancel()
            self._resting = asyncio.get_running_loop().call_soon(self._rested)

    def _schedule_drain(self) -> None:
        if not self._drain_scheduled:
            self._drain_scheduled = True
            asyncio.get_running_loop().call_soon(self._drain_again)

    def _drain_again(self) -> None:
        self._drain_scheduled = False
        self.drain()

    def _look(self) -> None:
        """The descriptor fired, or the rest is over."""
        self._beats = self._others = 0
        self.drain()
        if self._beats and not self._others and not self._due and self._socket is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket.FD)
            self._resting = loop.call_later(REST, self._rested)

    def _rested(self) -> None:
        self._resting = None
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket.FD, self._look)
            self._look()

    def drain(self) -> None:
        """Hand out what has arrived, at most `BATCH` messages of it."""
        for _ in range(BATCH):
            # Asked first: an exception for "nothing there" costs as much as a message.
            socket = self._socket
            if socket is None or not socket.getsockopt(zmq.EVENTS) & _POLLIN:  # type: ignore[operator]
                return
            route = socket.recv(_NOBLOCK)
            peer = self._by_route.get(route)
            if peer is None:
                self._introduce(route, socket.recv_multipart(_NOBLOCK, copy=False))
            else:
                self._accept(peer, route, socket.recv_multipart(_NOBLOCK))
        self._schedule_drain()

    def _introduce(self, route: bytes, frames: list[zmq.Frame]) -> None:
        """First message of a connection: its credentials do not change, so they are read once."""
        sender = credentials(frames[-1])
        peer = self._by_pid.get(sender.pid)
        if peer is None or not peer.is_sender(sender, self._uid):
            self._stranger(route, sender, frames[-1])
        else:
            self._accept(peer, route, [frame.bytes for frame in frames])

    def _accept(self, peer: Peer, route: bytes, untrusted_frames: list[bytes]) -> None:
        if len(untrusted_frames) == 1:
            self._take(peer, route, untrusted_frames[0])
        else:
            self._malformed(peer, f"{len(untrusted_frames)} frames")

    def _take(self, peer: Peer, route: bytes, untrusted_data: bytes) -> None:
        known = peer.route is not None
        try:
            if not peer.budget.allow(self._clock()):
                raise BackendBug("more messages than a worker has to say")
            message = decode_from_worker(untrusted_data)
            peer.check(route, message)
        except BackendBug as error:
            self._malformed(peer, str(error))
            return
        if not known:
            self._by_route[route] = peer
        if peer.adopting:
            if not known:
                peer.listener.worker_came_back()
            return
        if isinstance(message, Beat):
            self._beats += 1
        else:
            self._others += 1
            self._due.discard(peer.device)
        peer.received = message.seq
        peer.listener.worker_said(message)

    def _stranger(self, route: bytes, sender: Credentials, frame: zmq.Frame) -> None:
        # The fork server may tell the pid of a worker after the worker's own first message came,
        # and a worker of an earlier supervisor may speak before its device is taken up. Any process
        # of the host can also be the sender, hence the bound.
        if not self.starts_pending():
            self._parked.clear()
        elif sender not in self._parked and len(self._parked) < PARKED_MAX:
            self._parked[sender] = (route, frame.bytes)
            return
        self.dropped += 1
        if self._strangers.allow(self._clock()):
            _log.debug(
                "message of process %d of user %d, which is no worker of ours: dropped",
                sender.pid,
                sender.uid,
            )

    def _malformed(self, peer: Peer, cause: str) -> None:
        self.forget(peer.device)
        error = BackendBug(f"message of worker: {peer.device}: process {peer.pid}: {cause}")
        peer.listener.worker_broke_protocol(error)
