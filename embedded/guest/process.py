# SPDX-License-Identifier: MIT
"""A guest as a process of its own: one domain, the frontends of its devices, a control socket.

The main thread owns the xenstore connection and all life cycles; it waits for watch events,
control connections and orders. Each control connection has a thread of its own that does I/O on
the rings, where a type's C runs without the GIL; what concerns life cycles it hands to the main
thread (`call`). An idle guest waits for descriptors only.

A xenstored that goes away is waited for: rings do not need it. The domain ends with the process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Final, TypeVar

from embedded.domain import Domain
from embedded.guest import control
from embedded.guest.devices import Devices
from embedded.guest.session import Session
from embedded.guest.side import GuestSide
from embedded.guest.sides import guest_sides
from shared.errors import BlamedError, HostError
from shared.xenstore.blocking import BlockingXenstore

T = TypeVar("T")

RETRY_FIRST: Final = 0.05
RETRY_MAX: Final = 1.0
"""Seconds between attempts to reach a xenstored that is away."""

log = logging.getLogger("guest")


class GuestProcess:
    """The process's one object. `run` returns when the guest is shut down."""

    def __init__(
        self, domain: Domain, name: str, sides: Mapping[str, GuestSide], protocol: str
    ) -> None:
        self.domain = domain
        self.name = name
        self._selector = selectors.DefaultSelector()
        path = domain.directory / "xenstored" / "domain" / str(domain.domid)
        self._xs = BlockingXenstore(path, reconnect=True)
        self._xs_fd = -1
        self._retry_at: float | None = None
        self._retry_after = RETRY_FIRST
        self.devices = Devices(domain, self._xs, sides, protocol)
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopping = False
        self._sessions: set[Session] = set()

    def run(self, ready: Callable[[], None]) -> None:
        """Serve until shut down; calls `ready` once the control socket accepts."""
        with self._listen() as listener:
            self._selector.register(listener, selectors.EVENT_READ)
            self._selector.register(self._bell, selectors.EVENT_READ)
            # The hypervisor never sends on it: readable means that the domain was destroyed.
            lifeline, _ = self.domain.descriptors
            self._selector.register(lifeline, selectors.EVENT_READ, "lifeline")
            self._look(self.devices.take_events)
            ready()
            while not self._stopping:
                self._turn(listener)
        for session in list(self._sessions):
            session.close()

    def stop(self) -> None:
        """End `run`; from any thread or a signal handler."""
        self._stopping = True
        os.eventfd_write(self._bell, 1)

    def call(self, order: Callable[[], T], timeout: float) -> T:
        """Run a function in the main thread and give its result (or error) to this one."""
        future: Future[T] = Future()

        def execute() -> None:
            try:
                future.set_result(order())
            except BlamedError as error:
                future.set_exception(error)

        self._orders.put(execute)
        os.eventfd_write(self._bell, 1)
        try:
            return future.result(timeout)
        except TimeoutError:
            raise HostError(f"guest {self.name}: no time for it within {timeout:g} s") from None

    def close(self) -> None:
        """Let go of the domain, which ends it. After `run`."""
        self.devices.release()
        self._xs.close()
        self._selector.close()
        os.close(self._bell)
        self.domain.close()

    # The loop

    def _turn(self, listener: socket.socket) -> None:
        self._follow_xenstore()
        timeout = None if self._retry_at is None else max(0.0, self._retry_at - time.monotonic())
        for key, _ in self._selector.select(timeout):
            if key.fileobj is listener:
                self._accept(listener)
            elif key.fd == self._bell:
                os.eventfd_read(self._bell)
            elif key.data == "lifeline":
                log.warning("the domain was destroyed, or the hypervisor is gone")
                self._stopping = True
                return
        # Orders find what has happened before them done, and what they cause is done after them.
        # While xenstore is away they wait.
        self._look(self.devices.take_events)
        if self._retry_at is None and self._obey():
            self._look(self.devices.take_events)

    def _obey(self) -> bool:
        """Execute the orders that are there; whether there were any."""
        any_order = False
        with contextlib.suppress(queue.Empty):
            while True:
                self._orders.get_nowait()()
                any_order = True
        return any_order

    def _look(self, step: Callable[[], None]) -> None:
        """Do something that needs xenstore; when it is away, everything is looked at later."""
        if self._retry_at is not None and time.monotonic() < self._retry_at:
            return
        try:
            if self._retry_at is not None:
                self.devices.look_again()
                log.info("xenstore is back")
            step()
        except HostError as error:
            if self._retry_at is None:
                log.warning("xenstore: %s", error)
                self._retry_after = RETRY_FIRST
            self._retry_at = time.monotonic() + self._retry_after
            self._retry_after = min(RETRY_MAX, self._retry_after * 2)
        else:
            self._retry_at = None

    def _follow_xenstore(self) -> None:
        """Watch the connection's present descriptor, which changes when it is made again."""
        fd = self._xs.fileno() if self._xs.connected else -1
        if fd == self._xs_fd and fd >= 0:
            return
        if self._xs_fd >= 0:
            with contextlib.suppress(KeyError, ValueError, OSError):
                self._selector.unregister(self._xs_fd)
        self._xs_fd = fd
        if fd >= 0:
            self._selector.register(fd, selectors.EVENT_READ)
        elif self._retry_at is None:
            self._retry_at = time.monotonic()

    # Control

    @contextlib.contextmanager
    def _listen(self) -> Iterator[socket.socket]:
        path = control.socket_path(self.domain.directory, self.domain.domid)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(path))
            listener.listen(64)
            try:
                yield listener
            finally:
                path.unlink(missing_ok=True)

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        session = Session(self, connection)
        self._sessions.add(session)
        session.ended = self._sessions.discard
        threading.Thread(target=session.serve, name="control", daemon=True).start()


def run(
    directory: Path, domid: int, name: str, lifeline: int, memory: int, ready_fd: int, protocol: str
) -> int:
    """Be the guest whose descriptors these are; returns the exit code."""
    domain = Domain.adopt(lifeline, memory, directory, domid)
    process = GuestProcess(domain, name, guest_sides(), protocol)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: process.stop())

    def ready() -> None:
        os.write(ready_fd, b"\n")
        os.close(ready_fd)

    try:
        process.run(ready)
    finally:
        process.close()
    _remove_traces(directory, domid)
    return 0


def _remove_traces(directory: Path, domid: int) -> None:
    """After an orderly end nobody reads the log; the last guest takes the directory with it."""
    guests = control.socket_path(directory, domid).parent
    with contextlib.suppress(OSError):
        (guests / f"{domid}.log").unlink(missing_ok=True)
        guests.rmdir()
