# SPDX-License-Identifier: MIT
"""Heartbeat and progress watchdogs on a fake clock, with the real watchdog and devices."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from config.model import Config, DeviceTimeouts, TypeConfig
from shared import messages as m
from shared.device_types import resolve
from supervisor.workers.health import Health
from supervisor.workers.watchdog import Watchdog
from tests.fakes.clock_loop import in_clock_loop, pass_time
from tests.fakes.supervisor_world import TOY, World, world_of

TIMEOUTS = DeviceTimeouts()


@asynccontextmanager
async def watched_world(config: Config | None = None) -> AsyncIterator[World]:
    """A served device under a watchdog."""
    world = await world_of(config)
    await world.serving()
    watchdog = Watchdog(
        lambda: (device.link for device in world.registry), lambda: world.surroundings.config
    )
    watchdog.start()
    try:
        yield world
    finally:
        watchdog.stop()


def beat(world: World, pending: int = 0, finished: int = 0) -> None:
    """A beat of the device's worker."""
    counters = {"pending": pending, "reads": finished, "writes": 0}
    world.workers.says(TOY, m.Beat, counters=counters)


def told(world: World, kind: str) -> list[str]:
    """Texts of a kind of events."""
    return [one.text for one in world.events.last(100, str(TOY)) if one.kind == kind]


@in_clock_loop
async def test_watchdog_beats_in_time_are_nothing_to_tell() -> None:
    """A worker that beats each second is never late."""
    async with watched_world() as world:
        for _ in range(60):
            await pass_time(1)
            beat(world)
        assert told(world, "late") == []
        assert world.workers.aborted == []


@in_clock_loop
async def test_watchdog_silence_is_late_after_three_seconds() -> None:
    """Late in status and event, once; nothing is killed."""
    async with watched_world() as world:
        beat(world)
        await pass_time(2.5)
        assert world.status().health == ""
        await pass_time(1.5)
        assert world.status().health == "late"
        await pass_time(4)
        assert told(world, "late") == ["no beat for 3 s"]
        assert world.workers.aborted == []


@in_clock_loop
async def test_watchdog_late_worker_that_beats_again_is_well() -> None:
    """The end of it is said too."""
    async with watched_world() as world:
        beat(world)
        await pass_time(5)
        beat(world)
        assert world.status().health == ""
        assert told(world, "late")[1:] == ["beats again after 5 s"]


@in_clock_loop
async def test_watchdog_dead_worker_gets_sigabrt_and_two_seconds_later_sigkill() -> None:
    """Ten seconds of silence end a worker; SIGABRT is for the trace, SIGKILL for what stays."""
    async with watched_world() as world:
        world.workers.die_on_abort = False
        beat(world)
        await pass_time(9.8)
        assert world.workers.aborted == []
        await pass_time(1.5)
        assert world.workers.aborted == [TOY]
        assert world.workers.killed == []
        await pass_time(2)
        assert world.workers.killed == [TOY]
        assert world.status().last_failure == "hang"
        assert world.workers.starts == [(TOY, 1), (TOY, 2)]


@in_clock_loop
async def test_watchdog_worker_that_obeys_sigabrt_is_not_killed_too() -> None:
    """Its successor, which has another life, is left alone by the timer of the first one."""
    async with watched_world() as world:
        await pass_time(12)
        assert world.workers.aborted == [TOY]
        await pass_time(5)
        assert world.workers.killed == []
        assert world.status().failures == 1


@in_clock_loop
async def test_watchdog_words_of_an_aborted_worker_do_not_save_it() -> None:
    """What it says after SIGABRT does not take the SIGKILL back."""
    async with watched_world() as world:
        world.workers.die_on_abort = False
        await pass_time(10.5)
        beat(world)
        await pass_time(3)
        assert world.workers.killed == [TOY]


@in_clock_loop
async def test_watchdog_type_has_its_own_times() -> None:
    """A section `timeouts` of a type counts for its workers."""
    own = DeviceTimeouts(beat_late=20, beat_dead=60)
    config = Config(types={"toy": TypeConfig(handler="toy", timeouts=own)})
    async with watched_world(config) as world:
        beat(world)
        await pass_time(19)
        assert world.status().health == ""
        await pass_time(5)
        assert world.status().health == "late"
        await pass_time(35)
        assert world.workers.aborted == []
        await pass_time(5)
        assert world.workers.aborted == [TOY]


@in_clock_loop
async def test_progress_pending_without_an_end_is_slow_then_stalled_and_lives() -> None:
    """Said after 10 s, called stalled after 30 s, said again when it goes on; never killed."""
    async with watched_world() as world:
        words = []
        for _ in range(60):
            beat(world, pending=4, finished=7)
            words.append(world.status().health)
            await pass_time(1)
        assert (words[9], words[10], words[29], words[30]) == ("", "slow", "slow", "stalled")
        beat(world, pending=4, finished=8)
        assert world.status().health == ""
        assert told(world, "progress") == [
            "slow: 4 requests pending, none finished for 10 s",
            "stalled: 4 requests pending, none finished for 30 s",
            "requests are finished again after 60 s",
        ]
        assert world.workers.starts == [(TOY, 1)]


def watched_health() -> tuple[Health, list[str]]:
    """A health and what it tells."""
    told: list[str] = []
    return Health(lambda _kind, text: told.append(text), resolve("toy").counters), told


def test_progress_idle_ring_is_never_slow() -> None:
    """Nothing pending, nothing finished: that is how an idle disk looks."""
    health, told = watched_health()
    for second in range(100):
        health.beat({"pending": 0, "reads": 5}, float(second), TIMEOUTS)
    assert told == []


def test_progress_busy_ring_is_never_slow() -> None:
    """Something is always pending and something always finished."""
    health, told = watched_health()
    for second in range(100):
        health.beat({"pending": 32, "reads": second}, float(second), TIMEOUTS)
    assert told == []


def test_progress_request_after_an_idle_hour_has_its_full_time() -> None:
    """The time counts from the first beat with a pending request, not from the last end."""
    health, told = watched_health()
    health.beat({"pending": 0, "reads": 5}, 0.0, TIMEOUTS)
    health.beat({"pending": 1, "reads": 5}, 3600.0, TIMEOUTS)
    health.beat({"pending": 1, "reads": 5}, 3609.0, TIMEOUTS)
    assert told == []
    health.beat({"pending": 1, "reads": 5}, 3610.0, TIMEOUTS)
    assert health.word == "slow"


def test_progress_pending_that_vanishes_is_well_again() -> None:
    """A detached ring has nothing pending: the stall is over."""
    health, told = watched_health()
    for second in range(40):
        health.beat({"pending": 1, "reads": 5}, float(second), TIMEOUTS)
    assert health.word == "stalled"
    health.beat({}, 40.0, TIMEOUTS)
    assert health.word == ""
    assert len(told) == 3


@pytest.mark.parametrize("value", [2**64 - 1, 2**63, 0])
def test_progress_absurd_counters_of_a_hostile_worker_do_no_harm(value: int) -> None:
    """The largest numbers the schema lets through only make its own device look ill."""
    health, told = watched_health()
    for second in range(60):
        counters = {f"x{n}_req": value for n in range(63)}
        health.beat({"pending": value, **counters}, float(second), TIMEOUTS)
    assert len(told) == (2 if value else 0)
