# SPDX-License-Identifier: MIT
"""A device whose reads and writes of xenstore take time, while the world goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from shared import messages as m
from shared.errors import Blame
from shared.lifecycle_types import Hold, WorkerPhase
from shared.xenbus import XenbusState
from shared.xenstore.batch import Absent
from shared.xenstore.errors import NoEntryError
from tests.fakes.clock_loop import run, settle
from tests.fakes.supervisor_world import ERROR, TOY, FakeStore, World, world_of


class SlowStore(FakeStore):
    """Answers to reads of `slow` are taken at once and given when `release` is called."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = ""
        self._gates: list[asyncio.Event] = []

    async def read_or_none(self, path: str, tx: int = 0) -> bytes | None:
        value = await super().read_or_none(path, tx)
        if path == self.slow and tx == 0:
            gate = asyncio.Event()
            self._gates.append(gate)
            await gate.wait()
        return value

    async def read_many(
        self, paths: Iterable[str], tx: int = 0, absent: Absent = NoEntryError
    ) -> list[bytes | None]:
        return await asyncio.gather(*(self.read_or_none(path, tx) for path in paths))

    def release(self) -> None:
        """Reads are quick again, and those under way are answered."""
        self.slow = ""
        for gate in self._gates:
            gate.set()
        self._gates.clear()


async def slow_world() -> tuple[World, SlowStore]:
    """A world on a slow store, with a device whose worker has said Hello."""
    store = SlowStore()
    world = await world_of(store=store)
    world.plug()
    await settle()
    world.workers.says(TOY, m.Hello)
    await settle()
    return world, store


def test_device_own_write_never_overtakes_a_read_under_way() -> None:
    """What was read before our own write is not taken for a state that came back.

    Initialising read late would mean that the toolstack had made another device.
    """

    async def body() -> None:
        world, store = await slow_world()
        store.slow = f"{world.back()}/state"
        world.device().backend_event(None)
        await settle()
        world.workers.says(TOY, m.Initialised, nodes={})
        await settle()
        assert world.state() == b"1"  # the write waits for the read

        store.release()
        await settle()
        assert world.state() == b"2"
        assert not world.device().lifecycle.gone
        assert XenbusState.INIT_WAIT is world.device().lifecycle.backend
        assert WorkerPhase.READY is world.device().lifecycle.worker
        assert world.workers.starts == [(TOY, 1)]

    run(body())


def test_device_state_forced_by_the_toolstack_is_not_written_over() -> None:
    """A detach that comes while our own next state is on its way wins (xl block-detach)."""

    async def body() -> None:
        world, store = await slow_world()
        on_event, store.on_event = store.on_event, lambda event: None
        store.put(f"{world.back()}/online", b"0")
        store.put(f"{world.back()}/state", b"5")  # and nobody has told us yet
        store.on_event = on_event
        world.workers.says(TOY, m.Initialised, nodes={"feature-x": b"1"})
        await settle()

        written = [value for path, value, _ in store.writes if path == f"{world.back()}/state"]
        assert written == [b"6"]  # the frontend had not begun, so Closing is over at once
        assert XenbusState.CLOSED is world.device().lifecycle.backend
        assert world.workers.kinds(TOY)[-1] == "Stop"

    run(body())


def test_device_snapshot_that_fails_after_its_worker_died_blames_nobody() -> None:
    """The order was for a worker that is no more; its successor gets one of its own."""

    async def body() -> None:
        store = SlowStore()
        world = await world_of(store=store)
        world.plug()
        await settle()
        for number in range(600):
            store.nodes[f"{world.back()}/n{number}"] = b"x"
        store.nodes[f"{world.back()}/n0"] = b""
        gate = asyncio.Event()
        listing = store.directory

        async def slow_listing(path: str, tx: int = 0) -> list[str]:
            await gate.wait()
            return await listing(path, tx)

        store.directory = slow_listing  # type: ignore[method-assign]
        world.workers.says(TOY, m.Hello)
        await settle()
        world.workers.exits(TOY, -9)
        await settle()
        gate.set()
        await settle()

        assert world.workers.starts == [(TOY, 1), (TOY, 2)]
        assert Hold.NONE is world.device().lifecycle.hold

    run(body())


def test_reporter_error_lost_with_the_connection_is_written_after_it() -> None:
    """xenstored goes away while an error is told: the node is there when it is back."""

    async def body() -> None:
        world = await world_of()
        world.plug()
        await settle()
        world.store.lost = True
        world.workers.says(TOY, m.Failed, stage="alloc", blame=Blame.HOST, text="no memory")
        await settle()
        assert ERROR not in world.store.nodes

        world.store.lost = False
        await world.scanner.rescan()
        await settle()
        assert world.store.nodes[ERROR].endswith(b"no memory")

    run(body())


async def being_taken_up() -> tuple[World, SlowStore]:
    """A world with a device that is registered, and whose frontend is just being read."""
    store = SlowStore()
    world = await world_of(store=store)
    store.slow = f"{world.front()}/state"
    world.plug()
    await settle()
    assert TOY in world.registry
    return world, store


def test_scanner_type_switched_off_while_a_device_is_taken_up_leaves_it_alone() -> None:
    """The reload comes between finding the device and taking it up; it is not lost."""

    async def body() -> None:
        world, store = await being_taken_up()
        world.scanner.disable("toy")
        store.release()
        await settle()
        assert TOY not in world.registry
        assert world.workers.starts == []
        await world.scanner.enable("toy")
        await settle()
        assert world.workers.starts == [(TOY, 1)]

    run(body())


def test_scanner_domain_that_dies_while_its_device_is_taken_up_is_noticed() -> None:
    """Nobody heard of the death at that moment: it is asked again afterwards."""

    async def body() -> None:
        world, store = await being_taken_up()
        store.domain_dies(TOY.domid)
        await settle()
        store.release()
        await settle()
        for device in list(world.workers.specs):
            world.workers.exits(device, 0)
        await settle()
        assert TOY not in world.registry

    run(body())


def test_device_restart_while_it_is_taken_up_is_nothing() -> None:
    """There is no worker to replace yet, and asking for it is no bug."""

    async def body() -> None:
        world, store = await being_taken_up()
        world.device().replace_worker()
        store.release()
        await settle()
        assert world.workers.starts == [(TOY, 1)]

    run(body())
