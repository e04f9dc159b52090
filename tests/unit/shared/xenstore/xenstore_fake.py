# SPDX-License-Identifier: MIT
"""A xenstored for tests that lives in the test's own event loop and does as it is told.

It answers by the real rules (the embedded server's `Requests`) unless a test takes over: `hold`
keeps answers back, `answer` is asked first and may return any bytes.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from embedded.xenstored.nodes import RefusedError
from embedded.xenstored.requests import Client, Requests
from embedded.xenstored.store import Store
from embedded.xenstored.watch_index import ServerWatch
from shared.xenstore.client import XenstoreClient
from shared.xenstore.transport import SocketTarget
from shared.xenstore.wire import Op, Packet, PacketReader


class NoDomains:
    """Domains without sockets."""

    def open_domain(self, domid: int) -> None:
        pass

    def close_domain(self, domid: int) -> None:
        pass


class FakeConnection(Client, asyncio.Protocol):
    """One connection of the fake."""

    def __init__(self, server: FakeXenstored) -> None:
        super().__init__(domid=0)
        self.server = server
        self.reader = PacketReader()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.server.connections.append(self)
        self.server.happened.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.requests.forget(self)
        if self in self.server.connections:
            self.server.connections.remove(self)
        self.server.happened.set()

    def data_received(self, data: bytes) -> None:
        for packet in self.reader.feed(data):
            self.server.seen.append(packet)
            if self.server.hold:
                self.server.held.append((self, packet))
            else:
                self.carry_out(packet)
        self.server.happened.set()

    def carry_out(self, packet: Packet) -> None:
        if self.server.answer is not None:
            scripted = self.server.answer(packet)
            if scripted is not None:
                self.transport.write(scripted)
                return
        op = packet.op
        try:
            reply = self.server.requests.handle(self, op, packet.tx_id, packet.payload)
        except RefusedError as refusal:
            op, reply = Op.ERROR, refusal.code.encode() + b"\0"
        self.transport.write(Packet(op, reply, packet.rq_id, packet.tx_id).encode())
        self.server.requests.fire()

    def deliver(self, watch: ServerWatch[Client], payload: bytes) -> None:
        self.transport.write(Packet(Op.WATCH_EVENT, payload, 0).encode())


class FakeXenstored:
    """The fake and what tests look at."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.store = Store()
        self.requests = Requests(self.store, NoDomains())
        self.connections: list[FakeConnection] = []
        self.seen: list[Packet] = []
        self.held: list[tuple[FakeConnection, Packet]] = []
        self.hold = False
        self.happened = asyncio.Event()
        self.answer: Callable[[Packet], bytes | None] | None = None
        self._listener: asyncio.Server | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_unix_server(lambda: FakeConnection(self), self.path)

    async def stop(self) -> None:
        """Away: nobody listens, every connection is cut."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            with suppress(FileNotFoundError):  # Python 3.13 removes it by itself
                os.unlink(self.path)  # noqa: PTH108 - pathlib is refused in async functions
        for connection in list(self.connections):
            connection.transport.abort()
        await self.until(lambda: not self.connections)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that packets or connections coming and going bring about."""
        async with asyncio.timeout(10):
            while not condition():
                self.happened.clear()
                await self.happened.wait()

    def let_go(self) -> None:
        """Answer what was held back."""
        self.hold = False
        held, self.held = self.held, []
        for connection, packet in held:
            connection.carry_out(packet)

    def write(self, path: str, value: bytes) -> None:
        """A change made by somebody else."""
        other = Client(0)
        payload = path.encode() + b"\0" + value
        self.requests.handle(other, Op.WRITE, 0, payload)
        self.requests.fire()


@asynccontextmanager
async def fake_xenstored() -> AsyncIterator[FakeXenstored]:
    """A fake that listens; gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="xbd"))
    server = FakeXenstored(directory / "socket")
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
        shutil.rmtree(directory)


@asynccontextmanager
async def connected(
    limit: float = 5.0,
) -> AsyncIterator[tuple[FakeXenstored, XenstoreClient]]:
    """A fake xenstored and a client connected to it."""
    async with fake_xenstored() as server:
        client = XenstoreClient(SocketTarget(server.path), timeout=limit)
        await client.connect()
        try:
            yield server, client
        finally:
            await client.close()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario; one that hangs fails."""

    async def limited() -> None:
        async with asyncio.timeout(20):
            await scenario()

    asyncio.run(limited())
