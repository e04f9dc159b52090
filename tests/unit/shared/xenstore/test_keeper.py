# SPDX-License-Identifier: MIT
"""What ends a connection to xenstored, and how the client comes back from it."""

from __future__ import annotations

import asyncio
import logging

import pytest

from shared.xenstore.errors import ConnectionLostError
from shared.xenstore.wire import Op, Packet, WatchEvent
from tests.unit.shared.xenstore.xenstore_fake import connected, run


def test_client_unanswered_request_means_the_connection_is_dead() -> None:
    """In time one request without an answer fails all of them, and says why."""

    async def scenario() -> None:
        async with connected(limit=0.05) as (server, client):
            causes: list[str] = []
            client.on_disconnect = causes.append
            server.hold = True
            outcomes = await asyncio.gather(
                client.read("/a"), client.read("/b"), return_exceptions=True
            )
            assert [type(outcome) for outcome in outcomes] == [ConnectionLostError] * 2
            assert causes == ["no answer to read of /a within 0.05 s"]
            assert not client.connected

    run(scenario)


@pytest.mark.parametrize(
    "nonsense",
    [
        Packet(Op.READ, b"", 4711).encode(),
        Packet(Op.WRITE, b"OK\0", 1).encode(),
        Packet(Op.WATCH_EVENT, b"path-only\0", 0).encode(),
        b"\xff" * 16,
    ],
    ids=["unknown-id", "other-operation", "event-without-token", "oversized"],
)
def test_client_malformed_answer_ends_the_connection(nonsense: bytes) -> None:
    """A server that does not keep to the protocol is left, not believed."""

    async def scenario() -> None:
        async with connected() as (server, client):
            server.answer = lambda packet: nonsense
            with pytest.raises(ConnectionLostError):
                await client.read("/a")

    run(scenario)


def test_client_watch_answered_with_id_zero_is_accepted() -> None:
    """Kernels before 4.11 answer WATCH on /dev/xen/xenbus with a request id of 0."""

    async def scenario() -> None:
        async with connected() as (server, client):
            server.answer = lambda packet: (
                Packet(packet.op, b"OK\0", 0).encode() if packet.op == Op.WATCH else None
            )
            await client.watch("/a", "t", 0)
            assert await client.read("/") == b""

    run(scenario)


def test_s18_client_connection_lost_comes_back_with_watches(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Requests fail at once, the watches are registered anew, then the rescan is called."""

    async def scenario() -> None:
        async with connected() as (server, client):
            rescanned = asyncio.Event()
            causes: list[str] = []
            client.on_disconnect = causes.append

            async def rescan() -> None:
                assert client.connected
                await client.directory("/")
                rescanned.set()

            client.on_reconnect = rescan
            await client.watch("/a", "t", 0)
            assert await client.events.get() == WatchEvent("/a", "t")
            server.hold = True
            pending = asyncio.create_task(client.read("/a"))
            await server.until(lambda: bool(server.held))
            await server.stop()
            with pytest.raises(ConnectionLostError, match="closed the connection"):
                await pending
            with pytest.raises(ConnectionLostError, match="not connected"):
                await client.read("/a")
            assert causes == ["xenstored closed the connection"]
            server.hold = False
            await server.start()
            await rescanned.wait()
            assert await client.events.get() == WatchEvent("/a", "t")
            server.write("/a/b", b"1")
            assert await client.events.get() == WatchEvent("/a/b", "t")
            assert client.statistics().reconnects == 1

    with caplog.at_level(logging.ERROR):
        run(scenario)
    assert "connection lost" in caplog.text


def test_client_unwatch_without_connection_is_not_registered_again() -> None:
    """What was unwatched while xenstored was away stays so."""

    async def scenario() -> None:
        async with connected() as (server, client):
            back = asyncio.Event()
            client.on_reconnect = back.set
            await client.watch("/a", "t", 0)
            await client.watch("/b", "t", 0)
            gone = asyncio.Event()
            client.on_disconnect = lambda cause: gone.set()
            await server.stop()
            await gone.wait()
            await client.unwatch("/a", "t")
            await server.start()
            await back.wait()
            assert [path for path, _ in server.connections[0].watches] == ["/b"]

    run(scenario)


def test_client_failing_rescan_does_not_end_the_keeping_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever `on_reconnect` raises, the next loss is dealt with as well."""

    async def scenario() -> None:
        async with connected() as (server, client):
            calls = asyncio.Queue[int]()

            def failing() -> None:
                calls.put_nowait(1)
                raise KeyError("rescan")

            client.on_reconnect = failing
            for _ in range(2):
                await server.stop()
                await server.start()
                await calls.get()
            assert await client.read("/") == b""

    run(scenario)
    assert "rescan" in caplog.text


def test_client_close_fails_what_is_in_flight() -> None:
    """Closing is final and leaves nobody waiting; a second time does nothing."""

    async def scenario() -> None:
        async with connected() as (server, client):
            server.hold = True
            pending = asyncio.create_task(client.read("/a"))
            await server.until(lambda: bool(server.held))
            await client.close()
            with pytest.raises(ConnectionLostError, match="closed"):
                await pending
            await client.close()

    run(scenario)
