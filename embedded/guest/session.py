# SPDX-License-Identifier: MIT
"""One control connection of a guest, served by a thread of its own."""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from embedded.guest import control
from shared.errors import BlamedError, ConfigError, HostError
from worker.devices.block.guest.blkfront import BlockFrontend
from worker.devices.block.guest.load import Progress
from worker.devices.block.guest.ring import SECTOR

if TYPE_CHECKING:
    from embedded.guest.process import GuestProcess

log = logging.getLogger("guest")


class Session:
    """Reads requests, answers each before the next."""

    def __init__(self, guest: GuestProcess, connection: socket.socket) -> None:
        self._guest = guest
        self._connection = connection
        self._stream = connection.makefile("rb")
        self.ended: Callable[[Session], None] = lambda session: None

    def serve(self) -> None:
        """Serve until the client closes or breaks the protocol."""
        try:
            while line := self._stream.readline(control.LINE_MAX):
                if not self._answer(line):
                    return
        except OSError as error:
            # The client went away in the middle of something.
            log.info("control connection: %s", error)
        finally:
            self.ended(self)
            self._stream.close()
            self._connection.close()

    def close(self) -> None:
        """Wake the thread out of whatever it waits for on its connection; from any thread."""
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def _answer(self, line: bytes) -> bool:
        """Answer one request; False if the connection is of no use any more."""
        try:
            request = control.decode_request(line)
        except msgspec.MsgspecError as error:
            self._send(control.Refused(f"guest control: request: {error}", ConfigError.exit_code))
            return False
        try:
            self._execute(request)
        except BlamedError as error:
            self._send(control.Refused(str(error), error.exit_code))
            # Data that was announced may still be on its way: it cannot be told from requests.
            return not isinstance(request, control.WriteIn)
        return not isinstance(request, control.Shutdown)

    def _execute(self, request: control.AnyRequest) -> None:
        match request:
            case control.ListDisks():
                self._send(self._disks())
            case control.Wait():
                self._wait(request)
            case control.Io():
                self._io(request)
            case control.ReadOut():
                self._read_out(request)
            case control.WriteIn():
                self._write_in(request)
            case control.Flush():
                self._find(request.disk).flush()
                self._send(control.Done("flushed"))
            case control.Reboot():
                self._reboot(request)
            case control.Shutdown():
                self._shut_down(request)

    def _disks(self) -> control.DisksReply:
        guest = self._guest
        return control.DisksReply(
            guest.name, guest.domain.domid, os.getpid(), guest.disks.describe()
        )

    def _wait(self, request: control.Wait) -> None:
        if not self._guest.disks.wait(request.count, request.timeout):
            states = ", ".join(
                f"{disk.vdev} {disk.state} (backend {disk.backend_state})"
                + (f": {disk.error}" if disk.error else "")
                for disk in self._guest.disks.describe()
                if disk.state != "Connected"
            )
            raise HostError(
                f"connect disks: guest {self._guest.name}: not within {request.timeout:g} s: "
                f"{states or 'other disks than expected'}"
            )
        self._send(self._disks())

    def _reboot(self, request: control.Reboot) -> None:
        disks = self._guest.disks
        self._guest.call(
            lambda: disks.restart_all(orderly=request.orderly, timeout=request.timeout),
            request.timeout + 5,
        )
        self._wait(control.Wait(None, request.timeout))

    def _shut_down(self, request: control.Shutdown) -> None:
        if request.orderly:
            disks = self._guest.disks
            self._guest.call(lambda: disks.close_all(request.timeout), request.timeout + 5)
        self._send(control.Done("shut down"))
        self._guest.stop()

    # I/O

    def _find(self, name: str) -> BlockFrontend:
        return self._guest.disks.find(name)

    def _io(self, request: control.Io) -> None:
        frontend = self._find(request.disk)
        with _Watcher(self, frontend, request.progress):
            result = frontend.run_load(request.config)
        self._send(control.IoReply(result))

    def _range(self, frontend: BlockFrontend, offset: int, count: int) -> int:
        """Bytes a dd moves; raises ConfigError when they are not there."""
        if frontend.info is None:
            raise HostError(f"disk {frontend.path}: not connected")
        size = frontend.info.sectors * SECTOR
        count = count or max(0, size - offset)
        if offset % SECTOR or count % SECTOR or offset < 0 or count < 0:
            raise ConfigError(f"dd: {offset}+{count}: must be multiples of {SECTOR}")
        if offset + count > size:
            raise ConfigError(f"dd: {offset}+{count}: ends beyond the disk's {size} bytes")
        return count

    def _read_out(self, request: control.ReadOut) -> None:
        frontend = self._find(request.disk)
        left = self._range(frontend, request.offset, request.count)
        sector = request.offset // SECTOR
        while left:
            here = min(left, control.CHUNK)
            data = frontend.read(sector, here // SECTOR, poll_us=20)
            self._send(control.DataReply(here))
            self._connection.sendall(data)
            left -= here
            sector += here // SECTOR
        self._send(control.DataReply(0))

    def _write_in(self, request: control.WriteIn) -> None:
        frontend = self._find(request.disk)
        left = self._range(frontend, request.offset, request.count) if request.count else 0
        self._send(control.Ready())
        sector = request.offset // SECTOR
        while left:
            data = self._stream.read(min(left, control.CHUNK))
            if len(data) % SECTOR or not data:
                raise HostError("dd: data from the client: it ended early")
            frontend.write(sector, data, poll_us=20)
            left -= len(data)
            sector += len(data) // SECTOR
        frontend.flush()
        self._send(control.Done(f"{request.count} bytes"))

    def send(self, reply: control.Reply) -> None:
        """Send one reply; raises OSError."""
        self._send(reply)

    def _send(self, reply: control.Reply) -> None:
        self._connection.sendall(control.encode(reply))

    def fileno(self) -> int:
        """Descriptor of the connection."""
        return self._connection.fileno()


class _Watcher:
    """While a load runs: sends progress, and ends the load when the client is gone."""

    def __init__(self, session: Session, frontend: BlockFrontend, interval: float) -> None:
        self._session = session
        self._frontend = frontend
        self._interval = interval
        self._done = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        os.eventfd_write(self._done, 1)
        self._thread.join()
        os.close(self._done)

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._done, select.POLLIN)
        poll.register(self._session.fileno(), select.POLLRDHUP)
        while not (ready := poll.poll(self._interval * 1000 if self._interval else None)):
            ring = self._frontend.ring
            progress = ring.progress() if ring is not None else None
            if progress is not None and not self._report(progress):
                return
        if not any(fd == self._done for fd, _ in ready):
            self._frontend.stop()

    def _report(self, progress: Progress) -> bool:
        try:
            self._session.send(control.ProgressReply(progress))
        except OSError:
            self._frontend.stop()
            return False
        return True
