# SPDX-License-Identifier: MIT
"""The command line's end of the control socket, and of the event stream.

One request, one reply, each within a time limit: a supervisor that is not there, or hangs, is a
clear error and never a command that hangs. A caller that waits is woken by a descriptor.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import msgspec
import zmq

from shared import control
from shared.errors import BackendBug
from supervisor.cli.settings import SYSTEM_RUN_DIR

EXIT_UNAVAILABLE: Final = 69
"""EX_UNAVAILABLE of sysexits.h: no supervisor is running, or it does not answer."""

REQUEST_TIMEOUT: Final = 5.0
"""Seconds for a reply. The supervisor never blocks; it answers from memory in milliseconds."""

T = TypeVar("T")
ReplyT = TypeVar("ReplyT", bound=control.Reply)


class UnavailableError(Exception):
    """No supervisor to talk to."""

    def __init__(self, text: str, hint: str) -> None:
        super().__init__(text)
        self.hint = hint


class RefusedError(Exception):
    """The supervisor says no."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class Client:
    """Asks the supervisor of a runtime directory. A context manager."""

    def __init__(self, run_dir: Path, timeout: float = REQUEST_TIMEOUT) -> None:
        self.run_dir = run_dir
        self._path = run_dir / control.CONTROL_SOCKET
        self._timeout = timeout
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        """Tells when the connection has ended."""

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets; what was not sent is dropped. Idempotent."""
        self._disconnect()
        self._context.destroy(linger=0)

    def ask(
        self, request: control.AnyRequest, expected: type[ReplyT], *, patient: bool = False
    ) -> ReplyT:
        """Send a request and wait for its reply; `patient`: as long as the supervisor is there.

        Raises:
            UnavailableError: nobody there, no reply in time, or it went away meanwhile.
            RefusedError: the supervisor refused.
            BackendBug: the reply is not what the request is answered by.
        """
        data = self._exchange(control.encode(request), patient)
        reply = _understood("reply", self._path, control.decode_reply, data)
        if isinstance(reply, control.Refused):
            raise RefusedError(reply.text, reply.exit_code)
        if not isinstance(reply, expected):
            raise BackendBug(
                f"reply of the supervisor: {self._path}: {type(reply).__name__} instead of"
                f" {expected.__name__}"
            )
        return reply

    def _exchange(self, data: bytes, patient: bool) -> bytes:
        asked, monitor = self._connection()
        while monitor.poll(0):  # an end that was before this request
            monitor.recv_multipart()
        limit = round(self._timeout * 1000)
        if asked.poll(limit, zmq.POLLOUT):
            asked.send(data, zmq.NOBLOCK)
            if self._wait_reply(asked, monitor, None if patient else limit):
                return asked.recv_multipart(zmq.NOBLOCK)[-1]
        # A late reply must not be taken for that of the next request.
        self._disconnect()
        check_listening(self._path)
        raise UnavailableError(
            f"the supervisor does not answer: {self._path}: nothing within {self._timeout:g} s",
            "Its log says what it does; systemctl status xenbackd, or send it SIGTERM.",
        )

    def _connection(self) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
        """The socket, and the one that tells when its connection has ended."""
        if self._socket is None or self._monitor is None:
            # ZeroMQ connects for ever in the background; whether somebody listens is asked first.
            check_listening(self._path)
            self._socket = self._context.socket(zmq.DEALER)
            self._socket.setsockopt(zmq.LINGER, 0)
            self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            self._socket.connect(f"ipc://{self._path}")
        return self._socket, self._monitor

    def _wait_reply(
        self, asked: zmq.Socket[bytes], monitor: zmq.Socket[bytes], limit: int | None
    ) -> bool:
        """Wait for the reply, or for the end of the process asked: its successor knows nothing.

        Raises:
            UnavailableError: it ended, or was replaced.
        """
        poller = zmq.Poller()
        poller.register(asked, zmq.POLLIN)
        poller.register(monitor, zmq.POLLIN)
        ready = dict(poller.poll(limit))
        # What it said last has arrived before its end is told, but maybe after the poll.
        if asked in ready or not ready:
            return bool(ready)
        if asked.poll(0, zmq.POLLIN):
            return True
        self._disconnect()
        raise UnavailableError(
            f"the supervisor went away: {self._path}",
            "It ended or was replaced; xenbackd status tells how far it came.",
        )

    def _disconnect(self) -> None:
        if self._socket is not None:
            if self._monitor is not None:
                self._socket.disable_monitor()
                self._monitor.close(linger=0)
                self._monitor = None
            self._socket.close(linger=0)
            self._socket = None

    def follow(self) -> EventStream:
        """Subscribe to the events from now on."""
        path = self.run_dir / control.EVENTS_SOCKET
        check_listening(path)
        return EventStream(self._context, path)


class EventStream:
    """The events as they come. Hints only: some can be missing, `Event.seq` shows it."""

    def __init__(self, context: zmq.Context[Any], path: Path) -> None:
        self._path = path
        self._socket: zmq.Socket[bytes] = context.socket(zmq.SUB)
        # Tells when the supervisor goes away; the SUB socket itself would wait for another.
        self._monitor: zmq.Socket[bytes] = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"event")
        self._socket.connect(f"ipc://{path}")

    def __iter__(self) -> Iterator[control.Event]:
        """Yield events until the supervisor is gone.

        Raises:
            UnavailableError: it is.
            BackendBug: it says what is no event.
        """
        decode = functools.partial(msgspec.json.decode, type=control.Event)
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self._socket in ready:
                yield _understood("event", self._path, decode, self._socket.recv_multipart()[-1])
            elif self._monitor in ready:
                raise UnavailableError(
                    f"the supervisor went away: {self._path}", "xenbackd status tells its state."
                )

    def close(self) -> None:
        """End the subscription."""
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)


def _understood(what: str, path: Path, decode: Callable[[bytes], T], data: bytes) -> T:
    try:
        return decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BackendBug(
            f"{what} of the supervisor: {path}: {error}; do the versions of supervisor and command"
            " differ?"
        ) from error


def check_listening(path: Path) -> None:
    """Make sure that a process accepts connections on a UNIX socket.

    Raises:
        UnavailableError: none does; the text says why.
    """
    _check_owner(path.parent)
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(str(path))
    except PermissionError as error:
        raise UnavailableError(
            f"the supervisor is not for this user: {path}: permission denied",
            "Run the command as the supervisor's user, for instance with sudo.",
        ) from error
    except OSError as error:
        raise UnavailableError(f"no supervisor is running: {path}: {error}", _hint(path)) from error
    finally:
        probe.close()


def _check_owner(directory: Path) -> None:
    # Below /tmp anybody could have made the directory first and answer in the supervisor's name.
    try:
        owner = directory.stat().st_uid
    except OSError:
        return
    if owner not in (0, os.geteuid()):
        raise UnavailableError(
            f"the runtime directory belongs to somebody else: {directory}: user id {owner}",
            "Name the right one by --run-dir.",
        )


def _hint(path: Path) -> str:
    start = "Start it with: xenbackd serve -c FILE"
    if path.parent != SYSTEM_RUN_DIR and (SYSTEM_RUN_DIR / control.CONTROL_SOCKET).exists():
        return f"There is one in {SYSTEM_RUN_DIR}: use sudo, or --run-dir {SYSTEM_RUN_DIR}."
    return f"{start}; if it runs elsewhere, name its --run-dir."
