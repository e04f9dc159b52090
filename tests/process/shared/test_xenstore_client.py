# SPDX-License-Identifier: MIT
"""The asyncio client with a real server process that dies, hangs and comes back."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from embedded.xenstored.launch import start_xenstored
from shared.errors import ConfigError, GuestFault
from shared.xenstore.blocking import BlockingXenstore
from shared.xenstore.client import XenstoreClient
from shared.xenstore.errors import ConnectionLostError
from shared.xenstore.transport import SocketTarget
from shared.xenstore.wire import WatchEvent
from supervisor.xenstore.snapshot import read_both
from worker.nodes import BackendNodes, FrontendNodes

BACKEND = "/local/domain/0/backend/toy"
FRONTEND = "/local/domain/5/device/toy/51712"


class Daemon:
    """A server process on a directory."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="xbd"))
        self.socket = str(self.directory / "socket")
        self.process: subprocess.Popen[bytes] = start_xenstored(self.directory)

    def kill(self) -> None:
        """SIGKILL, and wait until it is dead."""
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()

    def start(self) -> None:
        """Start it anew."""
        self.process = start_xenstored(self.directory)


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A running server; stopped and removed afterwards."""
    server = Daemon()
    yield server
    server.kill()
    shutil.rmtree(server.directory)


def run(
    daemon: Daemon,
    scenario: Callable[[XenstoreClient], Awaitable[None]],
    request_time: float = 5.0,
) -> None:
    """Run a scenario with a connected client; one that hangs fails."""

    async def limited() -> None:
        client = XenstoreClient(SocketTarget(daemon.socket), timeout=request_time)
        await client.connect()
        try:
            async with asyncio.timeout(30):
                await scenario(client)
        finally:
            await client.close()

    asyncio.run(limited())


def test_s18_client_xenstored_killed_and_started_anew(daemon: Daemon) -> None:
    """After a SIGKILL of xenstored content is there, watches work and a rescan is asked for."""

    async def scenario(client: XenstoreClient) -> None:
        back = asyncio.Event()
        client.on_reconnect = back.set
        await client.write(f"{BACKEND}/5/51712/state", b"4")
        await client.watch(BACKEND, "toy", 0)
        assert await client.events.get() == WatchEvent(BACKEND, "toy")
        daemon.kill()
        with pytest.raises(ConnectionLostError):
            await client.read(BACKEND)
        await asyncio.to_thread(daemon.start)
        await back.wait()
        assert await client.read(f"{BACKEND}/5/51712/state") == b"4"
        assert await client.events.get() == WatchEvent(BACKEND, "toy")
        await client.mkdir(f"{BACKEND}/6")
        assert await client.events.get() == WatchEvent(f"{BACKEND}/6", "toy")

    run(daemon, scenario)


def test_client_xenstored_hung_fails_in_time_and_recovers(daemon: Daemon) -> None:
    """A stopped xenstored costs the time limit, not for ever; continued, the client is back."""

    async def scenario(client: XenstoreClient) -> None:
        back = asyncio.Event()
        client.on_reconnect = back.set
        await client.write("/a", b"1")
        daemon.process.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(ConnectionLostError, match="no answer"):
            await client.read("/a")
        assert 0.3 <= time.monotonic() - started < 10
        daemon.process.send_signal(signal.SIGCONT)
        await back.wait()
        assert await client.read("/a") == b"1"

    run(daemon, scenario, request_time=0.3)


def test_client_many_devices_at_once_get_through(daemon: Daemon) -> None:
    """Hundreds of transactions and reads in flight at once all succeed."""

    async def scenario(client: XenstoreClient) -> None:
        devices = [f"{BACKEND}/{domid}/51712" for domid in range(1, 101)]
        await asyncio.gather(*(client.mkdir(device) for device in devices))

        async def publish(device: str) -> None:
            async def body(tx: int) -> None:
                nodes = [f"{device}/feature-{number}" for number in range(10)]
                await asyncio.gather(*(client.write(node, b"1", tx) for node in nodes))
                await client.write(f"{device}/state", b"2", tx)

            await client.transact(body)

        await asyncio.gather(*(publish(device) for device in devices))
        states = await asyncio.gather(*(client.read(f"{device}/state") for device in devices))
        assert states == [b"2"] * len(devices)
        assert client.statistics().in_flight == 0

    run(daemon, scenario)


def test_client_listing_over_4_kib_of_a_real_server(daemon: Daemon) -> None:
    """A directory with a thousand domains is listed completely, in a transaction too."""

    async def scenario(client: XenstoreClient) -> None:
        names = [f"domain-{number}" for number in range(1000)]
        await asyncio.gather(*(client.mkdir(f"{BACKEND}/{name}") for name in names))
        assert await client.directory(BACKEND) == names

        async def body(tx: int) -> list[str]:
            return await client.directory(BACKEND, tx)

        assert await client.transact(body) == names

    run(daemon, scenario)


def test_s01_s02_device_nodes_of_both_directories(daemon: Daemon) -> None:
    """Strings and integers of backend and frontend: missing, malformed, good, each told apart."""
    with BlockingXenstore(daemon.socket) as toolstack:
        toolstack.introduce(5)
        toolstack.mkdir(FRONTEND)
        toolstack.set_perms(FRONTEND, ["n5", "r0"])
        toolstack.write(f"{BACKEND}/5/51712/online", b"1")
        toolstack.write(f"{BACKEND}/5/51712/params", b"aio:/disk.img")
        toolstack.write(f"{BACKEND}/5/51712/sectors", b"many")
    with BlockingXenstore(daemon.directory / "domain" / "5") as guest:
        guest.write("device/toy/51712/ring-ref", b"8")
        guest.write("device/toy/51712/event-channel", b"0x9")
        guest.write("device/toy/51712/protocol", b"")

    async def scenario(client: XenstoreClient) -> None:
        path = f"{BACKEND}/5/51712"
        nodes, untrusted_nodes, failure = await read_both(client, path, FRONTEND)
        assert failure is None
        backend, frontend = BackendNodes(nodes), FrontendNodes(untrusted_nodes)
        assert backend.flag("online", default=False)
        assert backend.text("params") == "aio:/disk.img"
        with pytest.raises(ConfigError, match="mode: missing"):
            backend.text("mode")
        with pytest.raises(ConfigError, match="sectors"):
            backend.choice("sectors", ("few",))
        assert frontend.integer("ring-ref", 1, 9) == 8
        assert frontend.integer("state", 0, 8, default=0) == 0
        with pytest.raises(GuestFault, match="protocol"):
            frontend.choice("protocol", ("x86_64-abi",), "x86_64-abi")
        with pytest.raises(GuestFault, match="event-channel"):
            frontend.integer("event-channel", 0, 9)
        await client.write(f"{path}/state", b"4")
        assert await client.read_or_none(f"{path}/state") == b"4"

    run(daemon, scenario)


def test_client_noisy_guest_does_not_starve_the_others(daemon: Daemon) -> None:
    """A guest that writes all the time fills its own queue; another one's event comes at once."""
    with BlockingXenstore(daemon.socket) as toolstack:
        for domid in (5, 6):
            toolstack.introduce(domid)
            toolstack.mkdir(f"/local/domain/{domid}")
            toolstack.set_perms(f"/local/domain/{domid}", [f"n{domid}"])

    async def scenario(client: XenstoreClient) -> None:
        for domid in (5, 6):
            await client.watch(f"/local/domain/{domid}", f"d{domid}", domid)
            await client.events.get()
        with BlockingXenstore(daemon.directory / "domain" / "5") as noisy:
            for number in range(900):
                noisy.write(f"n{number % 30}/{number}", b"")
        with BlockingXenstore(daemon.directory / "domain" / "6") as calm:
            calm.write("state", b"4")
        # The answer to this comes after all the events: they are here now.
        await client.read("/")
        events = [await client.events.get(), await client.events.get()]
        assert WatchEvent("/local/domain/6/state", "d6") in events
        assert client.statistics().events_pending <= 256
        assert client.statistics().events_dropped > 0

    run(daemon, scenario)
