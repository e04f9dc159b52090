# SPDX-License-Identifier: MIT
"""The server's loop: sockets, connections, the journal and the order between them.

One thread, one loop. Per turn: take what arrived, carry it out, write the journal, and only then
send the answers, so that no client is told of a change that a crash could undo.

Below its directory: `socket` (domain 0, may do everything), `domain/<N>` for each introduced
domain (a client that connects there is that domain), `store.log`, `lock`. The file system's
permissions decide who may connect; all are for the owner only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import socket
from pathlib import Path
from typing import Final

from embedded.xenstored import quotas
from embedded.xenstored.connection import Connection
from embedded.xenstored.journal import Journal
from embedded.xenstored.nodes import DOM0, RefusedError
from embedded.xenstored.requests import Requests
from embedded.xenstored.store import Store
from shared.errors import ConfigError, HostError

SOCKET: Final = "socket"
DOMAINS: Final = "domain"
JOURNAL: Final = "store.log"
LOCK: Final = "lock"
SOCKET_PATH_MAX: Final = 107
"""Bytes of a UNIX socket's path (sun_path of struct sockaddr_un without its NUL)."""
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_BACKLOG: Final = 128


class Server:
    """A xenstore server on a directory. `open`, `run` until a signal, `close`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = -1
        self._poll = select.epoll()
        self._listeners: dict[int, tuple[socket.socket, int]] = {}
        self._connections: dict[int, Connection] = {}
        self._dirty: dict[Connection, None] = {}
        self._waiting: dict[Connection, None] = {}
        """Those whose requests go on in the next turn."""
        self._journal = Journal(directory / JOURNAL)
        self._store = Store()
        self._requests = Requests(self._store, self)
        self._stopping = False
        self._full = False

    def open(self) -> None:
        """Lock the directory, restore the store, listen.

        Raises:
            ConfigError: the directory's path is too long for sockets.
            HostError: another server has it, or it can't be used.
        """
        longest = self._directory / DOMAINS / "65535"
        if len(os.fsencode(longest)) > SOCKET_PATH_MAX:
            raise ConfigError(
                f"xenstored: {self._directory}: path too long for UNIX sockets, "
                f"at most {SOCKET_PATH_MAX - len('/domain/65535')} bytes"
            )
        try:
            (self._directory / DOMAINS).mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_lock()
            self._journal.load(self._store)
            for leftover in (self._directory / DOMAINS).iterdir():
                leftover.unlink()
            self._listen(DOM0)
            for domid in sorted(self._store.domains):
                self._listen(domid)
        except OSError as error:
            raise HostError(f"xenstored: {self._directory}: {error.strerror or error}") from error

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, which may be blocked until this is called."""
        wake, signalled = socket.socketpair()
        with wake, signalled:
            wake.setblocking(False)
            signalled.setblocking(False)
            former = signal.set_wakeup_fd(signalled.fileno())
            handlers = {number: signal.signal(number, self._on_signal) for number in STOP_SIGNALS}
            self._poll.register(wake, select.EPOLLIN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
            try:
                while not self._stopping:
                    self._turn()
            finally:
                self._poll.unregister(wake)
                for number, handler in handlers.items():
                    signal.signal(number, handler)
                signal.set_wakeup_fd(former)

    def close(self) -> None:
        """Close everything and remove the sockets; the journal stays."""
        for connection in list(self._connections.values()):
            self._drop(connection)
        for listener, domid in list(self._listeners.values()):
            self._unlisten(listener, domid)
        with contextlib.suppress(OSError):
            (self._directory / DOMAINS).rmdir()
        self._journal.close()
        self._poll.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # Called by Requests

    def open_domain(self, domid: int) -> None:
        """Listen for a domain that is being introduced."""
        try:
            self._listen(domid)
        except OSError:
            raise RefusedError("EIO") from None

    def close_domain(self, domid: int) -> None:
        """A domain is released: its connections end and no new ones can be made."""
        for listener, owner in list(self._listeners.values()):
            if owner == domid:
                self._unlisten(listener, domid)
        for connection in list(self._connections.values()):
            if connection.domid == domid:
                self._drop(connection)

    # The loop

    def _turn(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for fd, events in self._poll.poll(0 if waiting else None):
            listener = self._listeners.get(fd)
            if listener is not None:
                self._accept(*listener)
                continue
            connection = self._connections.get(fd)
            if connection is None:
                continue
            if events & ~select.EPOLLOUT:
                connection.receive()
                waiting[connection] = None
            self._dirty[connection] = None
        for connection in waiting:
            if self._connections.get(connection.fd) is connection:
                self._serve(connection)
        while self._dirty:
            self._journal.flush(self._store)
            dirty = [c for c in self._dirty if self._connections.get(c.fd) is c]
            self._dirty.clear()
            for connection in dirty:
                connection.send()
            for connection in dirty:
                self._settle(connection)

    def _serve(self, connection: Connection) -> None:
        connection.serve(self._requests)
        changes = self._store.take_changes()
        if changes:
            self._journal.record(changes)

    def _settle(self, connection: Connection) -> None:
        """Take up later what had to wait, and ask the poller for what is needed next."""
        if self._connections.get(connection.fd) is not connection:
            return
        if connection.waits:
            self._waiting[connection] = None
        if connection.broken:
            self._drop(connection)
            return
        interest = (select.EPOLLIN if connection.wants_read else 0) | (
            select.EPOLLOUT if connection.wants_write else 0
        )
        if interest != connection.interest:
            connection.interest = interest
            self._poll.modify(connection.fd, interest)

    def _accept(self, listener: socket.socket, domid: int) -> None:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                # It would be readable all the time: not looked at until a descriptor is free.
                self._poll.modify(listener, 0)
                self._full = True
            return
        if domid != DOM0:
            same = sum(connection.domid == domid for connection in self._connections.values())
            if same >= quotas.CONNECTIONS_MAX:
                sock.close()
                return
        sock.setblocking(False)
        connection = Connection(sock, domid, self._dirty)
        connection.interest = select.EPOLLIN
        self._connections[connection.fd] = connection
        self._poll.register(connection.fd, select.EPOLLIN)

    def _drop(self, connection: Connection) -> None:
        del self._connections[connection.fd]
        self._dirty.pop(connection, None)
        self._poll.unregister(connection.fd)
        connection.broken = True
        connection.socket.close()
        self._requests.forget(connection)
        if self._full:
            self._full = False
            for listener in self._listeners:
                self._poll.modify(listener, select.EPOLLIN)

    def _on_signal(self, number: int, frame: object) -> None:
        self._stopping = True

    # Files

    def _take_lock(self) -> None:
        self._lock = os.open(self._directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HostError(
                f"xenstored: {self._directory}: another xenstored serves this directory"
            ) from None

    def _path(self, domid: int) -> Path:
        if domid == DOM0:
            return self._directory / SOCKET
        return self._directory / DOMAINS / str(domid)

    def _listen(self, domid: int) -> None:
        path = self._path(domid)
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            listener.setblocking(False)
            # Bound under another name and renamed: a client that sees the socket can connect to it.
            hidden = path.with_name(f".{path.name}")
            hidden.unlink(missing_ok=True)
            mask = os.umask(0o077)
            try:
                listener.bind(str(hidden))
            finally:
                os.umask(mask)
            listener.listen(_BACKLOG)
            hidden.rename(path)
        except BaseException:
            listener.close()
            raise
        self._listeners[listener.fileno()] = (listener, domid)
        self._poll.register(listener, select.EPOLLIN)

    def _unlisten(self, listener: socket.socket, domid: int) -> None:
        self._poll.unregister(listener)
        del self._listeners[listener.fileno()]
        listener.close()
        self._path(domid).unlink(missing_ok=True)
