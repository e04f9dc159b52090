# SPDX-License-Identifier: MIT
"""The two transports; a terminal pair stands in for the kernel's device."""

from __future__ import annotations

import asyncio
import errno
import os
import pty
import socket
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.errors import HostError
from shared.xenstore.client import XenstoreClient
from shared.xenstore.errors import AccessDeniedError
from shared.xenstore.transport import (
    Connection,
    DeviceTarget,
    DeviceTransport,
    SocketTarget,
    choose_target,
)
from shared.xenstore.wire import Op, Packet, PacketReader, WatchEvent


@pytest.fixture
def device() -> Iterator[tuple[int, str]]:
    """The kernel's end and the path of a character device that is a plain stream."""
    kernel, user = pty.openpty()
    tty.setraw(user)
    yield kernel, os.ttyname(user)
    os.close(kernel)
    os.close(user)


def test_choose_target_auto_takes_the_socket_where_it_is(
    tmp_path: Path, device: tuple[int, str]
) -> None:
    """auto: the socket if it exists, else the device if it exists, else the socket."""
    path, none = tmp_path / "s", str(tmp_path / "none")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert choose_target("auto", str(path), device[1]) == SocketTarget(str(path))
    assert choose_target("auto", none, device[1]) == DeviceTarget(device[1])
    assert choose_target("auto", none, none) == SocketTarget(none)
    assert choose_target("device", str(path), none) == DeviceTarget(none)
    assert choose_target("socket", none, device[1]) == SocketTarget(none)


@pytest.mark.parametrize("target", [SocketTarget("/nowhere/s"), DeviceTarget("/nowhere/d")])
def test_s23_connection_that_fails_names_path_and_remedy(
    target: SocketTarget | DeviceTarget,
) -> None:
    """What can't be opened is one HostError that says where, why and what to do."""
    with pytest.raises(
        HostError, match=r"can't connect to xenstored: /nowhere/.: No such file.*; "
    ):
        Connection(target).open()


def test_connection_nobody_listens_says_so(tmp_path: Path) -> None:
    """A socket left behind by a dead xenstored is told apart from one that never was."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
    with pytest.raises(HostError, match="start xenstored"):
        Connection(SocketTarget(path)).open()


def test_connection_is_opened_once_until_it_is_closed(tmp_path: Path) -> None:
    """pyxs keeps the transport: it is made by the first `open` and let go of by `close`."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        connection = Connection(SocketTarget(path))
        first = connection.open()
        assert connection.open() is first
        connection.close()
        assert connection.transport is None
        assert connection.open() is not first
        connection.close()


def test_device_each_request_leaves_in_one_write(
    device: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's buffer holds one request, until that has its answer: they are never joined,
    never split, and never written over."""
    kernel, path = device
    writes: list[bytes] = []

    def write(fd: int, data: bytes) -> int:
        writes.append(data)
        return len(data)

    real_write = os.write
    monkeypatch.setattr(os, "write", write)
    transport = DeviceTransport(path)
    requests = [Packet(Op.READ, b"/%d\0" % number, number).encode() for number in (1, 2, 3)]
    for request in requests:
        transport.queue(request)
    for number in (1, 2, 3):
        assert transport.flush()
        assert writes == requests[:number]
        real_write(kernel, Packet(Op.WATCH_EVENT, b"/\0t\0", 0).encode())
        assert transport.receive()
        assert transport.flush()
        assert writes == requests[:number], "an event is no answer"
        real_write(kernel, Packet(Op.READ, b"", number).encode())
        assert transport.receive()
    assert not transport.waiting
    monkeypatch.undo()
    transport.close()


def test_device_refused_write_is_that_requests_failure(
    device: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watch the kernel refuses fails alone; a device that is gone fails everything."""
    transport = DeviceTransport(device[1])

    def fail(number: int) -> None:
        def write(fd: int, data: bytes) -> int:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "write", write)
        transport.queue(Packet(Op.WATCH, b"/a\0t\0", 77).encode())

    fail(errno.EACCES)
    assert transport.flush()
    assert transport.take_refused() == [(77, errno.EACCES)]
    assert transport.take_refused() == []
    fail(errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        transport.flush()
    monkeypatch.undo()
    transport.close()


def test_client_over_the_device_reads_and_watches(
    device: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests, a watch answered with id 0, torn answers and a refused watch work over a device."""
    kernel, path = device
    os.set_blocking(kernel, False)
    real_write = os.write

    def write(fd: int, data: bytes) -> int:
        if b"/refused" in data:
            raise OSError(errno.EACCES, "no")
        return real_write(fd, data)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        reader = PacketReader()

        def serve() -> None:
            for packet in reader.feed(os.read(kernel, 4096)):
                if packet.op == Op.WATCH:
                    answer = Packet(Op.WATCH, b"OK\0", 0).encode()
                    answer += Packet(Op.WATCH_EVENT, packet.payload, 0).encode()
                else:
                    answer = Packet(packet.op, b"value", packet.rq_id).encode()
                for start in range(0, len(answer), 5):
                    real_write(kernel, answer[start : start + 5])

        loop.add_reader(kernel, serve)
        client = XenstoreClient(DeviceTarget(path))
        await client.connect()
        async with asyncio.timeout(10):
            values = await asyncio.gather(client.read("/a"), client.read("/b"))
            assert list(values) == [b"value", b"value"]
            await client.watch("/a", "t", 0)
            assert await client.events.get() == WatchEvent("/a", "t")
            with pytest.raises(AccessDeniedError):
                await client.watch("/refused", "t", 0)
            assert await client.read("/a") == b"value"
        await client.close()
        loop.remove_reader(kernel)

    monkeypatch.setattr(os, "write", write)
    asyncio.run(scenario())
