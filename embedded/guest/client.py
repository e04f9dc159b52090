# SPDX-License-Identifier: MIT
"""Talking to a guest's process over its control socket (see `control` for the protocol)."""

from __future__ import annotations

import socket
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, Self, TypeVar

import msgspec

from embedded.guest import control
from embedded.guest.control import GuestReply, Reply
from shared.errors import BackendBug, BlamedError, ConfigError, GuestFault, HostError

R = TypeVar("R", bound=Reply)
S = TypeVar("S", bound=msgspec.Struct)

TIMEOUT: Final = 10.0
"""Seconds for what does not do I/O."""

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

    def describe(self) -> GuestReply:
        """The guest and its devices."""
        return self._ask(control.ListDevices(), GuestReply)

    def wait_connected(self, count: int, timeout: float) -> GuestReply:
        """Wait until exactly `count` devices are there and connected.

        Raises:
            HostError: not in time; says how far each device is.
        """
        return self._ask(control.Wait(count, timeout), GuestReply, timeout + self._timeout)

    def reboot(self, *, orderly: bool = True, timeout: float = 20.0) -> GuestReply:
        """Connect all devices again; waits until they are."""
        return self._ask(control.Reboot(orderly, timeout), GuestReply, 2 * timeout + self._timeout)

    def shut_down(self, *, orderly: bool = True, timeout: float = 10.0) -> None:
        """End the guest."""
        self._ask(control.Shutdown(orderly, timeout), control.Done, timeout + self._timeout)

    # For `DeviceClient`: one message at a time

    def send(self, request: control.Request, timeout: float) -> None:
        """Send a request; what follows may take `timeout` seconds without a byte."""
        self._socket.settimeout(timeout)
        try:
            self._socket.sendall(control.encode(request))
        except OSError as error:
            raise HostError(f"guest: {self._path}: {error.strerror or error}") from error

    def expect(self, kind: type[R]) -> R:
        """The next reply, which must be of that kind."""
        reply = self._reply()
        if isinstance(reply, control.Refused):
            raise _CLASSES.get(reply.exit_code, HostError)(reply.text)
        if not isinstance(reply, kind):
            raise BackendBug(f"guest: {self._path}: unexpected reply {type(reply).__name__}")
        return reply

    def send_raw(self, data: bytes) -> None:
        """Send raw bytes; raises OSError."""
        self._socket.sendall(data)

    def read_raw(self, count: int) -> bytes:
        """Read exactly so many raw bytes."""
        data = self._stream.read(count)
        if len(data) != count:
            raise HostError(f"guest: {self._path}: it ended in the middle of the data")
        return data

    def decode(self, body: msgspec.Raw, decoder: msgspec.json.Decoder[Any]) -> Any:
        """A type's own message out of a `DeviceReply`."""
        try:
            return decoder.decode(body)
        except msgspec.MsgspecError as error:
            raise BackendBug(f"guest: {self._path}: reply of a device: {error}") from error

    # Connection

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
        self.send(request, self._timeout if timeout is None else timeout)
        return self.expect(kind)

    def _reply(self) -> Reply:
        try:
            line = self._stream.readline(control.LINE_MAX)
            return control.decode_reply(line)
        except TimeoutError:
            raise HostError(f"guest: {self._path}: no answer in time") from None
        except (OSError, msgspec.MsgspecError) as error:
            cause = "it ended" if isinstance(error, msgspec.MsgspecError) and not line else error
            raise HostError(f"guest: {self._path}: {cause}") from error


class DeviceClient:
    """One device of a guest, over a connection; a type derives from it what one can ask of it."""

    kind: ClassVar[str]
    """Of the frontend."""
    replies: ClassVar[msgspec.json.Decoder[Any]]
    """Of the type's own replies."""

    def __init__(self, client: GuestClient, name: str) -> None:
        """`name` is the device's name in the guest or its number; the guest looks it up."""
        self._client = client
        self.name = name

    def _send(self, body: msgspec.Struct, timeout: float) -> None:
        """Send a request of the type's; the guest may be silent for `timeout` seconds."""
        request = control.DeviceRequest(self.kind, self.name, control.wrap(body))
        self._client.send(request, timeout)

    def _reply(self) -> Any:
        """The next reply in the type's schema; what the guest refuses is raised."""
        reply = self._client.expect(control.DeviceReply)
        return self._client.decode(reply.body, self.replies)

    def _expect(self, kind: type[S]) -> S:
        """The next reply, which must be of that kind."""
        return self._checked(self._reply(), kind)

    def _checked(self, reply: Any, kind: type[S]) -> S:
        """A reply that must be of that kind."""
        if not isinstance(reply, kind):
            raise BackendBug(f"device {self.name}: unexpected reply {type(reply).__name__}")
        return reply
