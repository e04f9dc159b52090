# SPDX-License-Identifier: MIT
"""What comes from xenstored, or from whoever has taken its place.

A stream is cut into packets in one way only, however it arrives; a session with requests in flight
answers every one of them once and dies once. First byte of an input: how long the pieces are.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import shutil
import socket
import tempfile
from pathlib import Path

from shared.errors import HostError
from shared.xenstore.errors import WireError, XenstoreError
from shared.xenstore.session import Session
from shared.xenstore.transport import SocketTarget
from shared.xenstore.wire import Op, Packet, PacketReader, Perm, split_strings

_directory = tempfile.mkdtemp(prefix="xbf")
atexit.register(shutil.rmtree, _directory, ignore_errors=True)
_path = str(Path(_directory) / "socket")
_listener = socket.socket(socket.AF_UNIX)
_listener.bind(_path)
_listener.listen()
_loop = asyncio.new_event_loop()
atexit.register(_loop.close)
atexit.register(_listener.close)

_ASKED = (Op.READ, Op.WATCH, Op.DIRECTORY, Op.GET_PERMS, Op.TRANSACTION_START, Op.UNWATCH)
"""In flight under the ids 1, 2, …"""


def check(untrusted_data: bytes) -> None:
    """One stream."""
    if not untrusted_data:
        return
    data = untrusted_data[1:]
    _check_packets(data, 1 + untrusted_data[0] % 32)
    _loop.run_until_complete(_check_session(data))


def _check_packets(untrusted_data: bytes, piece: int) -> None:
    whole = _read(untrusted_data, len(untrusted_data) or 1)
    assert whole == _read(untrusted_data, piece), "it matters how the stream is cut"
    for packet in whole or []:
        for text in split_strings(packet.payload):
            with contextlib.suppress(ValueError):
                assert str(Perm.parse(text)).encode() == text
    if whole is not None:
        sent = b"".join(packet.encode() for packet in whole)
        assert untrusted_data.startswith(sent)


def _read(untrusted_data: bytes, piece: int) -> list[Packet] | None:
    """The packets; None if the stream is none."""
    reader = PacketReader()
    packets: list[Packet] = []
    try:
        for start in range(0, len(untrusted_data), piece):
            packets += reader.feed(untrusted_data[start : start + piece])
    except WireError:
        return None
    return packets


async def _check_session(untrusted_data: bytes) -> None:
    lost: asyncio.Queue[str] = asyncio.Queue()
    events: list[tuple[str, str]] = []
    session = Session(
        SocketTarget(_path),
        timeout=3600,
        on_event=lambda *event: events.append(event),
        on_lost=lost.put_nowait,
    )
    peer, _ = _listener.accept()
    try:
        futures = [session.request(op, b"/local/domain/3\0") for op in _ASKED]
        futures[-1].cancel()
        peer.send(untrusted_data)
        peer.shutdown(socket.SHUT_WR)
        assert await lost.get()
    finally:
        peer.close()
        session.close()
    for future in futures:
        assert future.done(), "a request waits for ever"
        if not future.cancelled() and (error := future.exception()) is not None:
            assert isinstance(error, XenstoreError | HostError), error
    assert lost.empty(), "it died twice"
    assert all(path.isascii() and token.isascii() for path, token in events)
