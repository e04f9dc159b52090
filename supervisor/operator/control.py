# SPDX-License-Identifier: MIT
"""The supervisor's side of the command line: requests on one socket, events on another.

Both sockets are for the supervisor's own user (mode 0600): a process that may open them may do
anything that the supervisor does. Even a malformed request is answered, by `Refused`. Events are
hints: ZeroMQ drops them for a listener that does not read.

Knows only the form of the requests; what they mean is in `Operations`.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final, Protocol

import msgspec
import zmq

from shared import control as c
from shared.errors import BackendBug, BlamedError, HostError
from shared.limits import BUS_QUEUE_MAX

_log = logging.getLogger("xenbackd.control")

REQUEST_MAX: Final = 4096
"""Bytes of a request."""

LINGER: Final = 200
"""Milliseconds that `close` waits for a client that does not take its last reply."""

TOPIC: Final = b"event"


class Operations(Protocol):
    """What can be asked of the supervisor; raises BlamedError to refuse."""

    def status(self) -> c.StatusReply:
        """All devices."""

    async def show(self, request: c.Show) -> c.ShowReply:
        """One device."""

    def last_events(self, request: c.Events) -> c.EventsReply:
        """Newest events."""

    def restart(self, request: c.Restart) -> c.Done:
        """Replace a worker."""

    def clear(self, request: c.Clear) -> c.Done:
        """End a hold."""

    async def restart_rolling(self, request: c.RestartRolling) -> c.Done:
        """Replace workers one after the other."""

    async def reload(self) -> c.Done:
        """Apply the configuration file."""

    async def upgrade(self) -> c.Done:
        """Replace the supervisor by the installed code."""

    def log_level(self, request: c.LogLevel) -> c.Done:
        """Change a device's level."""

    def commands(self, request: c.Commands) -> c.CommandsReply:
        """What can be asked of a device."""

    async def command(self, request: c.Command) -> c.CommandReply:
        """Have a device's worker carry out a command."""


class Control:
    """Control and event sockets in a runtime directory."""

    def __init__(self, directory: Path, operations: Operations) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._directory = directory
        self._operations = operations
        self._router: zmq.Socket[bytes] | None = None
        self._publisher: zmq.Socket[bytes] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._again = False

    def open(self) -> None:
        """Bind both sockets.

        Raises:
            HostError: a path cannot be bound.
        """
        # Of its own, so that `close` can wait until the last reply has left.
        self._context = zmq.Context()
        self._router = self._bind(zmq.ROUTER, c.CONTROL_SOCKET)
        self._router.setsockopt(zmq.MAXMSGSIZE, REQUEST_MAX)
        asyncio.get_running_loop().add_reader(self._router.FD, self._drain)
        self._publisher = self._bind(zmq.XPUB, c.EVENTS_SOCKET)

    def _bind(self, kind: int, name: str) -> zmq.Socket[bytes]:
        assert self._context is not None
        path = self._directory / name
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, LINGER)
        socket.setsockopt(zmq.MAXMSGSIZE, REQUEST_MAX)
        socket.setsockopt(zmq.RCVHWM, BUS_QUEUE_MAX)
        try:
            socket.bind(f"ipc://{path}")
            path.chmod(0o600)
        except (zmq.ZMQError, OSError) as error:
            socket.close()
            raise HostError(f"control socket: {path}: {error}") from error
        return socket

    async def close(self) -> None:
        """Answer no more requests; may be opened again. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._router is not None:
            asyncio.get_running_loop().remove_reader(self._router.FD)
            self._router.close()
            self._router = None
            (self._directory / c.CONTROL_SOCKET).unlink(missing_ok=True)
        if self._publisher is not None:
            self._publisher.close()
            self._publisher = None
            (self._directory / c.EVENTS_SOCKET).unlink(missing_ok=True)
        if self._context is not None:
            self._context.term()
            self._context = None

    def publish(self, event: c.Event) -> None:
        """Hand an event to all listeners."""
        if self._publisher is not None:
            while int(self._publisher.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                self._publisher.recv(zmq.NOBLOCK)  # subscriptions, which would pile up
            self._publisher.send_multipart([TOPIC, c.encode(event)], zmq.NOBLOCK)

    # --- requests

    def _drain(self) -> None:
        """Take all requests: the descriptor of a ZeroMQ socket is edge-triggered."""
        self._again = False
        while self._router is not None:
            try:
                frames = self._router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if len(self._tasks) < BUS_QUEUE_MAX:
                task = asyncio.get_running_loop().create_task(self._answer(frames))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _answer(self, frames: list[bytes]) -> None:
        reply = await self._reply_to(frames[-1])
        if self._router is None:
            return
        try:
            self._router.send_multipart([*frames[:-1], c.encode(reply)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            _log.debug("reply: %s", error)
        if not self._again:
            self._again = True
            asyncio.get_running_loop().call_soon(self._drain)

    async def _reply_to(self, untrusted_data: bytes) -> c.Reply:
        try:
            request = c.decode_request(untrusted_data)
        except msgspec.MsgspecError as error:
            return c.Refused(text=f"request: {error}", exit_code=BackendBug.exit_code)
        try:
            return await self._perform(request)
        except BlamedError as error:
            return c.Refused(text=str(error), exit_code=error.exit_code)
        except Exception:  # noqa: BLE001 - the command must not wait for a reply that never comes
            _log.exception("%s: bug in the supervisor; please report it", type(request).__name__)
            return c.Refused(text="bug in the supervisor: see its log", exit_code=70)

    async def _perform(self, request: c.AnyRequest) -> c.Reply:
        does = self._operations
        match request:
            case c.Status():
                return does.status()
            case c.Show():
                return await does.show(request)
            case c.Events():
                return does.last_events(request)
            case c.Restart():
                return does.restart(request)
            case c.Clear():
                return does.clear(request)
            case c.RestartRolling():
                return await does.restart_rolling(request)
            case c.Reload():
                return await does.reload()
            case c.Upgrade():
                return await does.upgrade()
            case c.LogLevel():
                return does.log_level(request)
            case c.Commands():
                return does.commands(request)
            case c.Command():
                return await does.command(request)
