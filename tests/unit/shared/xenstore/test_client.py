# SPDX-License-Identifier: MIT
"""The asyncio client against a server in the same loop that does as it is told."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from shared.errors import HostError
from shared.xenstore.client import TRANSACTIONS_MAX, XenstoreClient
from shared.xenstore.errors import (
    AlreadyExistsError,
    ConnectionLostError,
    InvalidRequestError,
    NoEntryError,
    TooBigError,
)
from shared.xenstore.session import Session
from shared.xenstore.transport import SocketTarget
from shared.xenstore.wire import Op, Packet, Perm, WatchEvent
from tests.unit.shared.xenstore.xenstore_fake import FakeXenstored, connected, fake_xenstored, run


def operations(server: FakeXenstored) -> list[int]:
    """Operations the server has seen, in order."""
    return [packet.op for packet in server.seen]


def test_s23_client_connect_without_xenstored_says_path_and_remedy(tmp_path: Path) -> None:
    """A socket that is not there is one clear HostError."""

    async def scenario() -> None:
        client = XenstoreClient(SocketTarget(str(tmp_path / "none")))
        with pytest.raises(HostError, match=r"can't connect .*none.*xenstored running"):
            await client.connect()
        with pytest.raises(ConnectionLostError, match="not connected"):
            await client.read("/")

    run(scenario)


def test_client_nodes_written_are_read_back() -> None:
    """Values, the empty one too, listings, permissions and removal work end to end."""

    async def scenario() -> None:
        async with connected() as (_, client):
            await client.write("/a/b", b"1")
            await client.write("/a/empty", b"")
            await client.mkdir("/a/dir")
            assert await client.read("/a/b") == b"1"
            assert await client.read("/a/empty") == b""
            assert await client.directory("/a") == ["b", "empty", "dir"]
            await client.set_perms("/a/b", [Perm("n", 0), Perm("r", 5)])
            assert await client.get_perms("/a/b") == [Perm("n", 0), Perm("r", 5)]
            await client.rm("/a/b")
            assert await client.read_or_none("/a/b") is None
            with pytest.raises(NoEntryError, match="/a/b"):
                await client.read("/a/b")
            assert await client.get_domain_path(5) == "/local/domain/5"
            await client.introduce(5)
            assert await client.is_domain_introduced(5)
            await client.release(5)
            assert not await client.is_domain_introduced(5)

    run(scenario)


def test_client_impossible_arguments_never_leave() -> None:
    """A path with a NUL and a value over 4 KiB fail here; the connection goes on."""

    async def scenario() -> None:
        async with connected() as (server, client):
            with pytest.raises(InvalidRequestError):
                await client.read("/a\0/b")
            with pytest.raises(TooBigError):
                await client.write("/a", b"x" * 4096)
            assert server.seen == []
            assert await client.read("/") == b""

    run(scenario)


def test_client_many_requests_are_pipelined_in_one_write() -> None:
    """All requests of one turn are in flight together and reach the server in one piece."""

    async def scenario() -> None:
        async with connected() as (server, client):
            server.hold = True
            reads = [asyncio.create_task(client.read_or_none(f"/n{i}")) for i in range(100)]
            await server.until(lambda: bool(server.seen))
            assert len(server.seen) == 100
            assert client.statistics().in_flight == 100
            assert len({packet.rq_id for packet in server.seen}) == 100
            server.let_go()
            assert await asyncio.gather(*reads) == [None] * 100
            assert client.statistics().in_flight == 0

    run(scenario)


def test_client_listing_over_4_kib_comes_in_parts() -> None:
    """A listing that fits into no packet is complete and in order."""

    async def scenario() -> None:
        async with connected() as (server, client):
            names = [f"domain-{number:05}" for number in range(1500)]
            for name in names:
                server.write(f"/big/{name}", b"")
            assert await client.directory("/big") == names
            assert operations(server).count(Op.DIRECTORY_PART) == 5

    run(scenario)


def test_client_listing_changed_between_parts_starts_anew() -> None:
    """A change during the listing leads to a listing of one moment."""

    async def scenario() -> None:
        async with connected() as (server, client):
            for number in range(1000):
                server.write(f"/big/node-{number:05}", b"")

            def interfere(packet: Packet) -> None:
                if packet.op == Op.DIRECTORY_PART and packet.payload != b"/big\0" + b"0\0":
                    server.answer = None
                    server.write("/big/late", b"")

            server.answer = interfere
            listing = await client.directory("/big")
            assert len(listing) == len(set(listing)) == 1001

    run(scenario)


def test_client_request_id_wraps_and_skips_those_in_use() -> None:
    """After 2^32 requests ids start at 1 again and never hit one still in flight."""

    async def scenario() -> None:
        async with fake_xenstored() as server:
            lost: list[str] = []
            session = Session(
                SocketTarget(server.path),
                timeout=5,
                on_event=lambda path, token: None,
                on_lost=lost.append,
                first_id=0xFFFFFFFE,
            )
            server.hold = True
            futures = [session.request(Op.READ, b"/\0") for _ in range(3)]
            session.next_id = 0xFFFFFFFE
            futures += [session.request(Op.READ, b"/\0") for _ in range(3)]
            await server.until(lambda: len(server.seen) == 6)
            ids = [packet.rq_id for packet in server.seen]
            assert ids == [0xFFFFFFFE, 0xFFFFFFFF, 1, 2, 3, 4]
            server.let_go()
            assert await asyncio.gather(*futures) == [b""] * 6
            assert lost == []
            session.close()

    run(scenario)


def test_client_cancelled_request_frees_nothing_early_and_hurts_nobody() -> None:
    """The answer to a cancelled request is dropped; its id is in use until then."""

    async def scenario() -> None:
        async with connected() as (server, client):
            server.write("/a", b"a")
            server.write("/b", b"b")
            server.hold = True
            first = asyncio.create_task(client.read("/a"))
            second = asyncio.create_task(client.read("/b"))
            await server.until(lambda: len(server.seen) == 2)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            assert client.statistics().in_flight == 2
            server.let_go()
            assert await second == b"b"
            assert client.statistics().in_flight == 0

    run(scenario)


def test_client_cancelled_watch_is_taken_back() -> None:
    """A watch whose registration was cancelled does not stay at the server."""

    async def scenario() -> None:
        async with connected() as (server, client):
            server.hold = True
            task = asyncio.create_task(client.watch("/a", "t", 0))
            await server.until(lambda: len(server.seen) == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            server.let_go()
            await server.until(lambda: operations(server) == [Op.WATCH, Op.UNWATCH])
            assert server.connections[0].watches == {}
            assert client.events.get_nowait() is None

    run(scenario)


def test_client_cancelled_transaction_is_aborted_wherever_it_is() -> None:
    """Cancelled in its start or in its body, no transaction stays open at the server."""

    async def scenario() -> None:
        async with connected() as (server, client):
            reached = asyncio.Event()

            async def body(tx: int) -> None:
                reached.set()
                await asyncio.Event().wait()

            for hold in (True, False):
                server.seen.clear()
                server.hold = hold
                task = asyncio.create_task(client.transact(body))
                await (server.until(lambda: bool(server.held)) if hold else reached.wait())
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                server.let_go()
                await server.until(
                    lambda: operations(server) == [Op.TRANSACTION_START, Op.TRANSACTION_END]
                )
                assert server.connections[0].transactions == {}

    run(scenario)


def test_client_transaction_in_conflict_is_repeated_until_it_fits() -> None:
    """EAGAIN runs the body again on the new state; the result is that of the run that counted."""

    async def scenario() -> None:
        async with connected() as (server, client):
            server.write("/counter", b"1")
            runs = 0

            async def body(tx: int) -> int:
                nonlocal runs
                runs += 1
                value = int(await client.read("/counter", tx))
                if runs < 3:
                    server.write("/counter", b"%d" % (value * 10))
                await client.write("/counter", b"%d" % (value + 1), tx)
                return value

            assert await client.transact(body) == 100
            assert (runs, await client.read("/counter")) == (3, b"101")

    run(scenario)


def test_client_transaction_in_endless_conflict_is_given_up() -> None:
    """The number of attempts is bounded."""

    async def scenario() -> None:
        async with connected() as (server, client):

            async def body(tx: int) -> None:
                await client.read("/", tx)
                server.write("/", b"again")

            with pytest.raises(HostError, match="4 conflicts"):
                await client.transact(body, attempts=4)

    run(scenario)


def test_client_transactions_at_once_stay_below_the_quota() -> None:
    """A driver domain's ten open transactions are not used up, however many devices come."""

    async def scenario() -> None:
        async with connected() as (server, client):
            most = 0

            async def body(tx: int) -> None:
                nonlocal most
                most = max(most, len(server.connections[0].transactions))
                await client.read("/", tx)

            await asyncio.gather(*(client.transact(body) for _ in range(40)))
            assert 2 <= most <= TRANSACTIONS_MAX

    run(scenario)


def test_client_transaction_failing_body_changes_nothing() -> None:
    """An exception leaves the body as it is and the transaction is aborted."""

    async def scenario() -> None:
        async with connected() as (_, client):

            async def body(tx: int) -> None:
                await client.write("/x", b"1", tx)
                raise KeyError("mine")

            with pytest.raises(KeyError, match="mine"):
                await client.transact(body)
            assert await client.read_or_none("/x") is None

    run(scenario)


def test_client_watch_fires_at_once_and_after_changes_until_unwatched() -> None:
    """First event at registration, then per change; twice the same watch is refused."""

    async def scenario() -> None:
        async with connected() as (server, client):
            await client.watch("/a", "t", 3)
            assert await client.events.get() == WatchEvent("/a", "t")
            with pytest.raises(AlreadyExistsError):
                await client.watch("/a", "t", 3)
            server.write("/a/b", b"1")
            assert await client.events.get() == WatchEvent("/a/b", "t")
            server.write("/a/b", b"2")
            await client.unwatch("/a", "t")
            assert client.events.get_nowait() is None
            with pytest.raises(NoEntryError):
                await client.unwatch("/a", "t")
            assert client.statistics().watches == 0

    run(scenario)
