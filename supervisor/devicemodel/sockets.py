# SPDX-License-Identifier: MIT
"""The QMP sockets and their clients; nothing here blocks.

A client that sends without reading is not read any more until it has taken its answers; more than
`CLIENTS_MAX` wait in the socket's queue, as with QEMU, which serves one at a time.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from shared.errors import ConfigError, HostError
from supervisor.devicemodel.arguments import QmpSocket
from supervisor.devicemodel.qmp import Answers, Session

_log = logging.getLogger("device-model")

CLIENTS_MAX: Final = 8
"""Clients of one socket at a time."""
BACKLOG: Final = 8
RECEIVE_SIZE: Final = 4096
"""Bytes read at once, which bounds the answers to them: some hundred kilobytes at worst."""


class Listener:
    """One QMP socket. It is removed by `close` if it is still ours."""

    def __init__(
        self, where: QmpSocket, answers: Answers, selector: selectors.BaseSelector
    ) -> None:
        """Listen.

        Raises:
            ConfigError: something else than a socket is at the path, or the descriptor is none.
            HostError: it cannot be made.
        """
        self._where = where
        self._answers = answers
        self._selector = selector
        self._clients: set[_Client] = set()
        self._socket = _inherited(where) if where.path is None else _bound(where, where.path)
        self._made = None if where.path is None else _identity(where.path)
        self._socket.setblocking(False)
        self._listening = False
        self._listen(True)

    def close(self) -> None:
        """Hang up everywhere and remove the socket."""
        for client in list(self._clients):
            client.close()
        self._listen(False)
        self._socket.close()
        path = self._where.path
        # libxl removes it as well, and may have started a successor already.
        if path is not None and _identity(path) == self._made:
            with suppress(OSError):
                Path(path).unlink()

    def _listen(self, wanted: bool) -> None:
        if wanted and not self._listening:
            self._selector.register(self._socket, selectors.EVENT_READ, self._accept)
        elif self._listening and not wanted:
            self._selector.unregister(self._socket)
        self._listening = wanted

    def _accept(self, _events: int) -> None:
        try:
            connection, _ = self._socket.accept()
        except OSError as error:
            # The client is gone again, or we are out of descriptors; libxl has a time limit.
            _log.warning("qmp: %s: accept: %s", self._where.label, error.strerror)
            return
        self._clients.add(_Client(connection, Session(self._answers), self._selector, self._left))
        self._listen(len(self._clients) < CLIENTS_MAX)

    def _left(self, client: _Client) -> None:
        self._clients.discard(client)
        self._listen(True)


class _Client:
    """One connection."""

    def __init__(
        self,
        connection: socket.socket,
        session: Session,
        selector: selectors.BaseSelector,
        left: Callable[[_Client], None],
    ) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._session = session
        self._selector = selector
        self._left = left
        self._out = bytearray(session.greeting())
        selector.register(connection, selectors.EVENT_WRITE, self._ready)

    def close(self) -> None:
        """Hang up."""
        self._selector.unregister(self._connection)
        self._connection.close()
        self._left(self)

    def _ready(self, events: int) -> None:
        try:
            if events & selectors.EVENT_READ:
                untrusted_data = self._connection.recv(RECEIVE_SIZE)
                if not untrusted_data:
                    self.close()
                    return
                self._out += self._session.feed(untrusted_data)
            if self._out:
                del self._out[: self._connection.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._session.broken and not self._out:
            self.close()
            return
        # Either or: who does not take answers gets to ask nothing more.
        wanted = selectors.EVENT_WRITE if self._out else selectors.EVENT_READ
        self._selector.modify(self._connection, wanted, self._ready)


def _bound(where: QmpSocket, path: str) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        _remove_former(where, path)
        # For root only, whatever the directory allows: it can end the guest's devices.
        before = os.umask(0o177)
        try:
            listening.bind(path)
        finally:
            os.umask(before)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise HostError(f"qmp socket: {path}: {error.strerror}") from error
    except BaseException:
        listening.close()
        raise
    return listening


def _remove_former(where: QmpSocket, path: str) -> None:
    """A socket of a device model that was killed is in the way; anything else is not ours."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"qmp socket: {where.label}: {path}: there is something else")
    Path(path).unlink()


def _inherited(where: QmpSocket) -> socket.socket:
    assert where.fd is not None
    try:
        listening = socket.socket(fileno=where.fd)
    except OSError as error:
        raise ConfigError(
            f"qmp socket: {where.label}: descriptor {where.fd}: {error.strerror}"
        ) from error
    if not listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ConfigError(f"qmp socket: {where.label}: descriptor {where.fd}: does not listen")
    return listening


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
