# SPDX-License-Identifier: MIT
"""The guest's end of a control connection while a device's type answers one `DeviceRequest`.

The type sends replies of its own schema, and raw bytes in either direction where its messages say
that they follow. Errors are raised: a `BlamedError` is sent to the client as it is, an OSError is
a client that went away.
"""

from __future__ import annotations

import socket
from typing import BinaryIO

import msgspec

from embedded.guest import control
from shared.errors import HostError


class Exchange:
    """One request and its answer, in one thread; `reply` may be called from a second one."""

    def __init__(self, connection: socket.socket, stream: BinaryIO) -> None:
        self._connection = connection
        self._stream = stream
        self.outstanding = 0
        """Raw bytes of the client's that were asked for and have not been taken."""

    def reply(self, body: msgspec.Struct) -> None:
        """Send a message of the type's; raises OSError."""
        self._connection.sendall(control.encode(control.DeviceReply(control.wrap(body))))

    def send(self, data: bytes) -> None:
        """Send raw bytes that a reply has announced; raises OSError."""
        self._connection.sendall(data)

    def expect(self, count: int, ready: msgspec.Struct) -> None:
        """Ask the client by `ready` for exactly `count` raw bytes; `receive` takes them."""
        self.outstanding = count
        self.reply(ready)

    def receive(self, limit: int) -> bytes:
        """The next raw bytes: `limit` of them, or all that are left.

        Raises:
            HostError: the client ended before it had sent what was expected.
        """
        wanted = min(limit, self.outstanding)
        data = self._stream.read(wanted)
        if len(data) < wanted:
            raise HostError("guest control: data from the client: it ended early")
        self.outstanding -= wanted
        return data

    def fileno(self) -> int:
        """Descriptor of the connection; it hangs up when the client goes away."""
        return self._connection.fileno()
