# SPDX-License-Identifier: MIT
"""Devices that an earlier supervisor left: what they are believed to be until their worker speaks,
and what is done with what changed meanwhile."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from typing import Any

import pytest

from config.model import Config, TypeConfig
from shared import messages as m
from shared.device_types import resolve
from shared.errors import Blame
from shared.lifecycle_types import Hold, WorkerPhase
from supervisor.policy.restart import Memory
from supervisor.workers.ends import KILL_PATIENCE
from supervisor.workers.records import Orphan, WorkerRecord, digest, ring_identity
from tests.fakes.clock_loop import in_clock_loop, pass_time, settle
from tests.fakes.supervisor_world import ERROR, TOY, World

RING = {"ring-ref": b"8", "event-channel": b"5"}


def left(world: World, *, pid: int | None = 77, dead: bool = False, **fields: Any) -> None:
    """What an earlier supervisor left of the device, generation 3; `dead`: the worker is too."""
    known: dict[str, Any] = {
        "device": TOY,
        "generation": 3,
        "handler": "toy",
        "options": digest({}),
        "frontend_path": world.front(),
        "ring": ring_identity(resolve("toy"), RING),
        "pid": pid,
    }
    record = WorkerRecord(**{**known, **fields})
    world.surroundings.orphans[TOY] = Orphan(record, None if pid is None or dead else 1000)


async def adopting(state: int = 4, frontend: int = 4, **fields: Any) -> World:
    """A supervisor that has found a device and its worker's file; the worker has not spoken."""
    world = World()
    world.plug(state=state, frontend=frontend)
    for name, value in RING.items():
        world.store.nodes[f"{world.front()}/{name}"] = value
    left(world, **fields)
    await world.start()
    return world


async def comes_back(world: World, phase: str = "serving", *, greeted: bool = True) -> None:
    """The worker reconnects and answers."""
    world.workers.listeners[TOY].worker_came_back()
    await settle()
    assert world.workers.kinds(TOY)[0] == "Adopt"
    world.workers.says(TOY, m.Present, phase=phase, greeted=greeted, nodes={"size": b"8"})
    await settle()


def phase(world: World) -> WorkerPhase:
    return world.device().lifecycle.worker


@in_clock_loop
async def test_adoption_connected_device_is_served_on_without_a_write_of_state() -> None:
    """Nothing is started, no state written; generation and hooks go on where they were."""
    world = await adopting()
    assert phase(world) is WorkerPhase.ADOPTING
    await comes_back(world)
    assert phase(world) is WorkerPhase.SERVING
    assert world.workers.starts == []
    assert world.workers.kinds(TOY) == ["Adopt", "SetLogLevel"]
    assert not [path for path, _, _ in world.store.writes if path.endswith("/state")]
    assert world.status().generation == 3


@in_clock_loop
async def test_adoption_worker_that_stays_silent_is_killed_and_succeeded() -> None:
    """Its deadline is that of a hung one and two beats; the successor resumes the ring."""
    world = await adopting()
    await pass_time(15)
    assert world.workers.aborted == [TOY]
    assert world.workers.starts == [(TOY, 4)]
    await world.ready()
    assert world.workers.last(TOY, m.Initialise).resume


@in_clock_loop
async def test_adoption_other_ring_of_a_connected_frontend_replaces_the_worker() -> None:
    """The frontend connected with another ring meanwhile: the worker ends in order."""
    world = await adopting(ring=ring_identity(resolve("toy"), {**RING, "ring-ref": b"9"}))
    await comes_back(world)
    assert world.workers.kinds(TOY)[-1] == "Stop"
    world.workers.exits(TOY, None)
    await settle()
    assert world.workers.starts == [(TOY, 4)]
    assert world.status().failures == 0


@in_clock_loop
async def test_adoption_other_frontend_ends_the_worker_when_it_comes_back() -> None:
    """The directory names another frontend: its worker is told to stop and never to serve."""
    world = await adopting(frontend_path="/local/domain/3/device/toy/1")
    assert phase(world) is WorkerPhase.STOPPING
    world.workers.listeners[TOY].worker_came_back()
    assert world.workers.kinds(TOY) == ["Stop"]
    world.workers.exits(TOY, None)
    await settle()
    assert world.workers.starts == [(TOY, 4)]


@in_clock_loop
async def test_adoption_device_made_anew_meanwhile_stops_the_stranded_worker() -> None:
    """Back at Initialising: what the worker serves is no more; a successor begins from there."""
    world = await adopting(state=1, frontend=1)
    await comes_back(world)
    assert world.workers.kinds(TOY)[-1] == "Stop"
    world.workers.exits(TOY, None)
    await settle()
    assert world.workers.starts == [(TOY, 4)]


@in_clock_loop
async def test_adoption_between_attached_and_connected_writes_connected() -> None:
    """The ring runs and nobody had said so: Connected is written with the worker's nodes."""
    world = await adopting(state=2, frontend=3)
    await comes_back(world, greeted=False)
    assert world.state() == b"4"
    assert world.store.nodes[f"{world.back()}/size"] == b"8"


@in_clock_loop
async def test_adoption_frontend_that_offers_a_ring_anew_is_made_to_wait() -> None:
    """It was connected, says the worker, so Initialised means another connection."""
    world = await adopting(frontend=3)
    await comes_back(world)
    assert world.workers.kinds(TOY)[-1] == "Disconnect"
    world.workers.says(TOY, m.Disconnected)
    await settle()
    assert world.state() in (b"2", b"4")
    assert "Initialise" not in world.workers.kinds(TOY)[:3]


@in_clock_loop
async def test_adoption_failure_nobody_heard_is_told_by_present() -> None:
    """The kind of a failure is known although the exit status will not be."""
    world = await adopting()
    world.workers.listeners[TOY].worker_came_back()
    world.workers.says(
        TOY,
        m.Present,
        phase="idle",
        greeted=True,
        nodes={},
        stage="serve",
        blame=Blame.GUEST,
        text="ring: makes no sense",
    )
    await settle()
    assert world.status().error == "ring: makes no sense"
    world.workers.exits(TOY, None)
    await settle()
    assert world.workers.starts == []
    assert world.state() == b"6"


@in_clock_loop
async def test_adoption_remembers_failures() -> None:
    """The fifth failure is the fifth, whoever counted the first four."""
    now = asyncio.get_running_loop().time()
    world = await adopting(memory=Memory(counted=(now,) * 4, streak=4))
    await comes_back(world)
    world.workers.exits(TOY, None)
    await settle()
    assert world.device().lifecycle.hold is Hold.QUARANTINED
    assert world.records.files[TOY].quarantined


@in_clock_loop
async def test_adoption_quarantine_stays_until_the_operator_ends_it() -> None:
    """A device in quarantine has no worker; killing the supervisor does not give it one."""
    world = await adopting(pid=None, quarantined=True)
    assert world.device().lifecycle.hold is Hold.QUARANTINED
    assert world.workers.starts == []
    world.device().replace_worker()
    await settle()
    assert world.workers.starts == [(TOY, 4)]


@in_clock_loop
async def test_adoption_first_death_without_a_supervisor_has_a_successor_at_once() -> None:
    """The ring is resumed as after any death."""
    world = await adopting(dead=True)
    assert world.workers.starts == [(TOY, 4)]
    await world.ready()
    assert world.workers.last(TOY, m.Initialise).resume
    assert world.status().failures == 1


@in_clock_loop
async def test_adoption_repeated_death_without_a_supervisor_waits() -> None:
    """The pause is that of the policy, whoever heard of the deaths before."""
    now = asyncio.get_running_loop().time()
    world = await adopting(dead=True, memory=Memory(counted=(now,), streak=1, last="crash"))
    assert world.device().lifecycle.hold is Hold.BACKOFF
    assert world.workers.starts == []
    await pass_time(0.7)
    assert world.workers.starts == [(TOY, 4)]


@in_clock_loop
async def test_adoption_one_death_too_many_without_a_supervisor_is_quarantined() -> None:
    """Nor does a killed supervisor spare a device its quarantine; the next one knows of it too."""
    now = asyncio.get_running_loop().time()
    world = await adopting(dead=True, memory=Memory(counted=(now,) * 4, streak=4, last="crash"))
    assert world.device().lifecycle.hold is Hold.QUARANTINED
    assert world.workers.starts == []
    assert world.records.files[TOY].quarantined


@in_clock_loop
async def test_adoption_pause_before_the_next_worker_goes_on() -> None:
    """The supervisor dies while a device waits: its successor waits for the rest, no longer."""
    first = World()
    await first.start()
    await first.serving()
    for _ in range(2):  # the first is answered at once
        first.workers.exits(TOY, -11)
        await settle()
    held = first.records.files[TOY]
    await pass_time(held.held_until - first.surroundings.clock() - 0.01)

    world = World()
    world.plug(state=4, frontend=4)
    world.surroundings.orphans[TOY] = Orphan(held, None)
    await world.start()
    assert world.device().lifecycle.hold is Hold.BACKOFF
    assert world.workers.starts == []
    assert world.status().failures == 2
    await pass_time(0.02)
    assert world.workers.starts == [(TOY, held.generation + 1)]


@in_clock_loop
async def test_adoption_pause_is_never_longer_than_any_of_the_policy() -> None:
    """A file from before the host's last start speaks of another clock."""
    now = asyncio.get_running_loop().time()
    memory = Memory(counted=(now,), streak=2, last="crash")
    world = await adopting(pid=None, held_until=now + 1e9, memory=memory)
    assert world.workers.starts == []
    await pass_time(72)
    assert world.workers.starts == [(TOY, 4)]


@in_clock_loop
async def test_adoption_pause_ends_by_the_operators_word() -> None:
    """And its file with it."""
    now = asyncio.get_running_loop().time()
    memory = Memory(counted=(now,), streak=2, last="crash")
    world = World()
    world.plug(state=6, frontend=6)
    left(world, pid=None, held_until=now + 60, memory=memory)
    world.records.files[TOY] = world.surroundings.orphans[TOY].record
    await world.start()
    world.device().release()
    assert world.device().lifecycle.hold is Hold.NONE
    assert TOY not in world.records.files


@in_clock_loop
async def test_adoption_failures_of_a_device_without_a_worker_are_remembered() -> None:
    """The fifth failure is the fifth, also where no worker was left to adopt."""
    now = asyncio.get_running_loop().time()
    world = await adopting(pid=None, memory=Memory(counted=(now,) * 4, streak=4, last="crash"))
    assert world.workers.starts == [(TOY, 4)]
    world.workers.exits(TOY, -11)
    await settle()
    assert world.device().lifecycle.hold is Hold.QUARANTINED


@in_clock_loop
async def test_adoption_remembered_device_that_is_gone_is_forgotten() -> None:
    """Its directory went meanwhile: no worker, no device, no file."""
    now = asyncio.get_running_loop().time()
    world = World()
    left(world, pid=None, held_until=now + 60, memory=Memory(counted=(now,), streak=2))
    world.records.files[TOY] = world.surroundings.orphans[TOY].record
    await world.start()
    assert world.workers.starts == []
    assert TOY not in world.registry
    assert TOY not in world.records.files


@in_clock_loop
async def test_adoption_quarantine_that_was_cleared_is_not_found_again() -> None:
    """A closed device needs no worker after `clear`, so no start takes the place of its file."""
    world = World()
    world.plug(state=6, frontend=6)
    left(world, pid=None, quarantined=True)
    world.records.files[TOY] = world.surroundings.orphans[TOY].record
    await world.start()
    assert world.device().lifecycle.hold is Hold.QUARANTINED
    world.device().release()
    await settle()
    assert world.workers.starts == []
    assert TOY not in world.records.files


@in_clock_loop
async def test_adoption_failures_that_were_cleared_are_not_counted_again() -> None:
    """The file of a worker that serves forgets them too; that of a dead one does not come back."""
    world = await adopting(memory=Memory(counted=(1.0, 2.0), streak=2, last="crash"))
    await comes_back(world)
    world.device().release()
    assert world.records.files[TOY].memory == Memory()
    world.workers.exits(TOY, None)
    await settle()
    world.workers.exits(TOY, -11)
    world.device().release()
    assert TOY not in world.records.files


@in_clock_loop
async def test_adoption_backend_directory_gone_ends_the_worker_in_order() -> None:
    """There is nothing to serve: told to stop as soon as it can be told, then forgotten."""
    world = World()
    left(world)
    await world.start()
    world.workers.listeners[TOY].worker_came_back()
    assert world.workers.kinds(TOY) == ["Stop"]
    world.workers.exits(TOY, None)
    await settle()
    assert TOY not in world.registry
    assert world.store.writes == []


@pytest.mark.parametrize("state", [3, 7, 99])
@in_clock_loop
async def test_adoption_impossible_state_ends_the_worker(state: int) -> None:
    """A state nobody can take a device up from: no device, so no worker."""
    world = await adopting(state=state)
    assert phase(world) is WorkerPhase.STOPPING
    world.workers.listeners[TOY].worker_came_back()
    assert world.workers.kinds(TOY) == ["Stop"]
    world.workers.exits(TOY, None)
    await settle()
    assert TOY not in world.registry


@in_clock_loop
async def test_adoption_type_that_is_not_enabled_closes_the_device() -> None:
    """As if it had been switched off by a reload; also when the type is not named any more."""
    world = World(Config(types={"toymodel": TypeConfig(handler="toy")}))
    world.plug(state=4, frontend=4)
    left(world, ring=ring_identity(resolve("toy"), {}))
    await world.start()
    await comes_back(world)
    assert world.state() == b"5"
    assert phase(world) is WorkerPhase.SERVING


@in_clock_loop
async def test_worker_that_does_not_die_of_sigkill_is_marked_and_never_doubled() -> None:
    """Alarm in status, events and log; nothing is started and no state written until it is dead."""
    world = World()
    await world.start()
    await world.serving()
    world.workers.die_on_abort = world.workers.die_on_kill = False
    world.device().link.hung("no beat")
    await pass_time(world.device().link.timeouts.abort + KILL_PATIENCE + 1)
    assert world.status().hold == "unkillable"
    assert "does not die of SIGKILL" in world.status().error
    assert any(event.kind == "unkillable" for event in world.events.last(50))
    await pass_time(3600)
    assert world.workers.starts == [(TOY, 1)]
    assert world.state() == b"4"
    world.workers.exits(TOY, -9)
    await settle()
    assert world.status().hold == ""
    assert world.workers.starts == [(TOY, 1), (TOY, 2)]


@in_clock_loop
async def test_adoption_worker_of_a_handler_that_is_not_installed_is_left_alone() -> None:
    """It cannot be spoken to; the device is refused with the reason, and no descriptor is kept."""
    world = World(Config())
    world.plug(state=4, frontend=4)
    left(world, handler="uninstalled")
    pidfd = os.pidfd_open(os.getpid())
    orphans = world.surroundings.orphans
    orphans[TOY] = dataclasses.replace(orphans[TOY], pidfd=pidfd)
    await world.start()
    assert TOY not in world.registry
    assert orphans == {}
    assert b"'uninstalled': not installed" in world.store.nodes[ERROR]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(pidfd)
