# SPDX-License-Identifier: MIT
"""The two ways to xenstored: its UNIX socket and the kernel's device /dev/xen/xenbus.

Built on the connection layer of pyxs, with two differences: nothing blocks (reads return what is
there, writes leave behind what does not fit), and a request leaves in one write().

The kernel's device (drivers/xen/xenbus/xenbus_dev_frontend.c) is peculiar:
- its buffer holds one request, so each request must be written by itself and completely;
- a request's payload stays in that buffer until another thread has sent it, and the next write()
  goes into the same buffer (xenbus_dev_request_and_reply, xs_send). So a request that is written
  before the last one has its answer changes the last one; this showed as EINVAL for valid paths.
  Therefore requests go one at a time;
- WATCH and UNWATCH are carried out inside write(), which fails where a socket would answer with an
  error packet; `take_refused()` returns such requests;
- older kernels answer them with a request id of 0 (the session copes with that).
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from pyxs.connection import PacketConnection

from shared.errors import HostError
from shared.xenstore.wire import HEADER, Op, Packet, PacketReader

RECEIVE_SIZE: Final = 64 * 1024
"""Bytes taken in one read: some hundred replies, so a flood does not hold up the loop."""

_DEVICE_GONE: Final = frozenset({errno.EIO, errno.ENODEV, errno.EBADF, errno.ENXIO})


@dataclass(frozen=True, slots=True)
class SocketTarget:
    """xenstored's UNIX socket, or a domain's own socket of the embedded xenstored."""

    path: str


@dataclass(frozen=True, slots=True)
class DeviceTarget:
    """The kernel's connection to xenstored, the only one a driver domain has."""

    path: str


Target = SocketTarget | DeviceTarget


def choose_target(
    transport: Literal["auto", "socket", "device"], socket_path: str, device_path: str
) -> Target:
    """The target for a configuration: with `auto` the socket if it exists, else the device.

    If neither exists the socket is chosen, because it may still appear.
    """
    if transport == "device":
        return DeviceTarget(device_path)
    if (
        transport == "auto"
        and not Path(socket_path).is_socket()
        and Path(device_path).is_char_device()
    ):
        return DeviceTarget(device_path)
    return SocketTarget(socket_path)


class Transport(Protocol):
    """A non-blocking stream of packets. `OSError` from any call means that it is broken."""

    serial: bool
    """One request at a time: the next one leaves after the answer to the last one has arrived."""

    @property
    def waiting(self) -> bool:
        """Whether something is queued that `flush` has not sent."""

    def fileno(self) -> int:
        """Descriptor to wait for."""

    def queue(self, data: bytes) -> None:
        """Take one complete packet to be sent by `flush`."""

    def flush(self) -> bool:
        """Send what is queued and may leave; False if the rest must wait until the descriptor is
        writable."""

    def receive(self) -> bytes | None:
        """What has arrived; None if nothing has, b"" if the peer is gone."""

    def take_refused(self) -> list[tuple[int, int]]:
        """Requests whose write() failed since the last call: pairs of request id and errno."""

    def close(self) -> None:
        """Close the descriptor."""


class SocketTransport:
    """The UNIX socket; everything queued leaves in one system call."""

    serial = False

    def __init__(self, path: str) -> None:
        self._out = bytearray()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.setblocking(False)
            # On a UNIX socket this never blocks: it fails with EAGAIN if the backlog is full.
            self._socket.connect(path)
        except BaseException:
            self._socket.close()
            raise

    @property
    def waiting(self) -> bool:
        return bool(self._out)

    def fileno(self) -> int:
        return self._socket.fileno()

    def queue(self, data: bytes) -> None:
        self._out += data

    def flush(self) -> bool:
        out = self._out
        while out:
            try:
                sent = self._socket.send(out)
            except BlockingIOError:
                return False
            del out[:sent]
        return True

    def receive(self) -> bytes | None:
        try:
            return self._socket.recv(RECEIVE_SIZE)
        except BlockingIOError:
            return None

    def take_refused(self) -> list[tuple[int, int]]:
        return []

    def close(self) -> None:
        self._socket.close()


class DeviceTransport:
    """The kernel's device: one write() per request, and the next one after its answer."""

    serial = True

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        self._out: deque[bytes] = deque()
        self._refused: list[tuple[int, int]] = []
        self._answers = PacketReader()
        self._unanswered = False

    @property
    def waiting(self) -> bool:
        return bool(self._out)

    def fileno(self) -> int:
        return self._fd

    def queue(self, data: bytes) -> None:
        self._out.append(data)

    def flush(self) -> bool:
        out = self._out
        while out and not self._unanswered:
            data = out[0]
            sent = True
            try:
                written = os.write(self._fd, data)
            except BlockingIOError:
                return False
            except OSError as error:
                # The kernel forgets all of a refused request; the device itself is fine.
                if error.errno in _DEVICE_GONE or len(data) < HEADER.size:
                    raise
                _, rq_id, _, _ = HEADER.unpack_from(data)
                self._refused.append((rq_id, error.errno or errno.EIO))
                written, sent = len(data), False
            if written < len(data):
                out[0] = data[written:]
            else:
                out.popleft()
                self._unanswered = sent
        return True

    def receive(self) -> bytes | None:
        try:
            data = os.read(self._fd, RECEIVE_SIZE)
        except BlockingIOError:
            return None
        if any(packet.op != Op.WATCH_EVENT for packet in self._answers.feed(data)):
            self._unanswered = False
        return data

    def take_refused(self) -> list[tuple[int, int]]:
        refused, self._refused = self._refused, []
        return refused

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Connection(PacketConnection):  # type: ignore[misc]
    """One connection to a target: pyxs's connection with a transport that does not block."""

    transport: Transport | None

    def __init__(self, target: Target) -> None:
        self.target = target
        self.path = target.path
        self.transport = None

    def create_transport(self) -> Transport:
        """Open the target.

        Raises:
            HostError: it can't be opened; says which path, why and what to do.
        """
        try:
            if isinstance(self.target, DeviceTarget):
                return DeviceTransport(self.target.path)
            return SocketTransport(self.target.path)
        except OSError as error:
            raise HostError(
                f"can't connect to xenstored: {self.path}: {error.strerror or error}; "
                f"{_remedy(self.target, error)}"
            ) from error

    def open(self) -> Transport:
        """Connect and return the transport; raises as `create_transport`."""
        self.connect()
        assert self.transport is not None
        return self.transport

    def send(self, packet: Packet) -> bool:
        """Queue a packet and send what can leave; False if something must wait."""
        transport = self.open()
        transport.queue(packet.encode())
        return transport.flush()


def _remedy(target: Target, error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return "run as root or grant access to it"
    if error.errno == errno.ECONNREFUSED:
        return "nobody listens there any more: start xenstored"
    if error.errno == errno.EAGAIN:
        return "xenstored does not accept connections: is it stopped or hung?"
    if isinstance(target, DeviceTarget):
        return "is this a domain of Xen? Without Xen use the embedded hypervisor"
    return "is xenstored running, and is `xenstore.socket` in the configuration the right path?"
