# SPDX-License-Identifier: MIT
"""Talking to a guest's process over its control socket (see `control` for the protocol)."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import msgspec

from embedded.guest import control
from embedded.guest.control import DisksReply, Reply
from shared.errors import BackendBug, BlamedError, ConfigError, GuestFault, HostError
from worker.devices.block.guest.load import LoadConfig, LoadResult, Progress

R = TypeVar("R", bound=Reply)

TIMEOUT: Final = 10.0
"""Seconds for what does not do I/O."""
IO_TIMEOUT: Final = 120.0
"""Seconds without a byte from the guest during I/O; more than it waits for its own backend."""

_CLASSES: Final[dict[int, type[BlamedError]]] = {
    one.exit_code: one for one in (GuestFault, ConfigError, HostError, BackendBug)
}


class GuestClient:
    """One connection; one request at a time. What the guest refuses is raised as it put it."""

    def __init__(self, path: Path, timeout: float = TIMEOUT) -> None:
        """Raises HostError: nobody listens at `path`."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._timeout = timeout
        self._path = path
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise HostError(f"guest: {path}: {error.strerror or error}") from error
        self._stream = self._socket.makefile("rb")

    def disks(self) -> DisksReply:
        """The guest and its disks."""
        return self._ask(control.ListDisks(), DisksReply)

    def wait_connected(self, count: int, timeout: float) -> DisksReply:
        """Wait until exactly `count` disks are there and Connected.

        Raises:
            HostError: not in time; says how far each disk is.
        """
        return self._ask(control.Wait(count, timeout), DisksReply, timeout + self._timeout)

    def io(
        self,
        disk: str,
        config: LoadConfig,
        progress: Callable[[Progress], None] | None = None,
        interval: float = 0.25,
    ) -> LoadResult:
        """Run a load to its end; closing the client ends it early."""
        request = control.Io(disk, config, interval if progress else 0.0)
        self._socket.settimeout(config.runtime + config.stall + IO_TIMEOUT)
        self._send(request)
        while isinstance(reply := self._reply(), control.ProgressReply):
            if progress is not None:
                progress(reply.progress)
        return self._expect(reply, control.IoReply).result

    def read_out(self, disk: str, offset: int = 0, count: int = 0) -> Iterator[bytes]:
        """A disk's content from `offset` (bytes) on; `count` 0 is to the end."""
        self._socket.settimeout(IO_TIMEOUT)
        self._send(control.ReadOut(disk, offset, count))
        while length := self._expect(self._reply(), control.DataReply).length:
            data = self._stream.read(length)
            if len(data) != length:
                raise HostError(f"guest: {self._path}: it ended in the middle of the data")
            yield data

    def write_in(self, disk: str, offset: int, count: int, chunks: Iterable[bytes]) -> None:
        """Write exactly `count` bytes to a disk at `offset`, then flush."""
        self._socket.settimeout(IO_TIMEOUT)
        self._ask(control.WriteIn(disk, offset, count), control.Ready, IO_TIMEOUT)
        for chunk in chunks:
            try:
                self._socket.sendall(chunk)
            except OSError:
                break  # It refused half-way; its answer says why.
        self._expect(self._reply(), control.Done)

    def flush(self, disk: str) -> None:
        """Flush a disk."""
        self._ask(control.Flush(disk), control.Done, IO_TIMEOUT)

    def reboot(self, *, orderly: bool = True, timeout: float = 20.0) -> DisksReply:
        """Connect all disks anew; waits until they are."""
        return self._ask(control.Reboot(orderly, timeout), DisksReply, 2 * timeout + self._timeout)

    def shut_down(self, *, orderly: bool = True, timeout: float = 10.0) -> None:
        """End the guest."""
        self._ask(control.Shutdown(orderly, timeout), control.Done, timeout + self._timeout)

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._stream.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, request: control.Request, kind: type[R], timeout: float | None = None) -> R:
        self._socket.settimeout(self._timeout if timeout is None else timeout)
        self._send(request)
        return self._expect(self._reply(), kind)

    def _send(self, request: control.Request) -> None:
        try:
            self._socket.sendall(control.encode(request))
        except OSError as error:
            raise HostError(f"guest: {self._path}: {error.strerror or error}") from error

    def _reply(self) -> Reply:
        try:
            line = self._stream.readline(control.LINE_MAX)
            return control.decode_reply(line)
        except TimeoutError:
            raise HostError(f"guest: {self._path}: no answer in time") from None
        except (OSError, msgspec.MsgspecError) as error:
            cause = "it ended" if isinstance(error, msgspec.MsgspecError) and not line else error
            raise HostError(f"guest: {self._path}: {cause}") from error

    def _expect(self, reply: Reply, kind: type[R]) -> R:
        if isinstance(reply, control.Refused):
            raise _CLASSES.get(reply.exit_code, HostError)(reply.text)
        if not isinstance(reply, kind):
            raise BackendBug(f"guest: {self._path}: unexpected reply {type(reply).__name__}")
        return reply
