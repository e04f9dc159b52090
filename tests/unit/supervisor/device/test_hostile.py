# SPDX-License-Identifier: MIT
"""What a guest could make the supervisor say too often, hand on too large, or give to another."""

from __future__ import annotations

import logging

import pytest

from shared import messages as m
from shared.lifecycle_types import Hold
from shared.limits import (
    NODE_VALUE_MAX,
    SNAPSHOT_BYTES_MAX,
    SNAPSHOT_NODES_MAX,
    SUPERVISOR_MESSAGE_MAX,
)
from supervisor.device.reporter import GUEST_BURST, GUEST_PERIOD, STATES_BURST
from tests.fakes.clock_loop import in_clock_loop, pass_time, settle
from tests.fakes.supervisor_world import ERROR, TOY, World


async def world_initialising() -> World:
    """One device, whose worker has been told to open it."""
    world = World()
    await world.start()
    world.plug()
    await settle()
    world.workers.says(TOY, m.Hello)
    await settle()
    return world


@in_clock_loop
async def test_snapshot_within_every_other_bound_but_too_large_is_the_guests_fault() -> None:
    """It would not fit into a message, and the worker's connection would break: nobody's bug."""
    world = World()
    await world.start()
    world.plug()
    await settle()
    await world.ready()
    for number in range(SNAPSHOT_BYTES_MAX // NODE_VALUE_MAX + 1):
        world.store.nodes[f"{world.front()}/n{number}"] = b"x" * NODE_VALUE_MAX
    world.frontend(3)
    await settle()
    world.workers.exits(TOY, 0)
    await settle()
    assert "Initialise" not in world.workers.kinds(TOY)
    assert f"more than {SNAPSHOT_BYTES_MAX} bytes" in world.store.nodes[ERROR].decode()
    assert Hold.GUEST is world.device().lifecycle.hold
    assert world.state() == b"6"


def test_snapshot_largest_of_both_directories_fits_into_a_message() -> None:
    """The bound on nodes is what keeps the bound on messages."""
    name = SNAPSHOT_BYTES_MAX // SNAPSHOT_NODES_MAX
    nodes = {f"{number:0{name}}": b"" for number in range(SNAPSHOT_NODES_MAX)}
    order = m.Initialise(
        device=TOY, generation=1, seq=0, backend=nodes, frontend=nodes, resume=True
    )
    assert len(m.encode(order)) <= SUPERVISOR_MESSAGE_MAX


@in_clock_loop
async def test_reporter_guest_that_closes_and_starts_anew_for_ever_has_bounded_lines(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """State changes pass up to the burst; the next one after a while says how many did not."""
    caplog.set_level(logging.INFO)
    world = World()
    await world.start()
    world.plug()
    await settle()
    await world.ready()
    for _ in range(3 * STATES_BURST):
        world.frontend(6)
        await settle()
        world.frontend(1)
        await settle()
        if world.workers.kinds(TOY)[-1] == "Init":
            world.workers.says(TOY, m.Initialised, nodes={})
            await settle()
    assert world.state() == b"2"
    lines = [line for line in caplog.messages if " -> " in line]
    events = [event for event in world.events.last(10_000) if event.kind == "state"]
    assert len(events) == STATES_BURST
    assert len(lines) < 2 * STATES_BURST

    await pass_time(GUEST_PERIOD)
    world.frontend(6)
    await settle()
    assert any("suppressed" in line for line in caplog.messages)
    world.frontend(1)
    await settle()
    await world.device().close()
    assert caplog.messages[-1].endswith(" lines")  # of which no later line would have told


@in_clock_loop
async def test_reporter_write_that_is_refused_again_and_again_has_bounded_lines() -> None:
    """No room in a driver domain's quota: each thing its guest does tries again, and is refused."""
    world = await world_initialising()
    world.store.refuse = world.back()
    world.workers.says(TOY, m.Initialised, nodes={})
    for _ in range(5 * GUEST_BURST):
        world.frontend(1)
        await settle()
    errors = [event for event in world.events.last(10_000) if event.kind == "error"]
    assert 0 < len(errors) <= GUEST_BURST + 1
    assert "ENOSPC" in world.status().error

    world.store.refuse = None
    world.frontend(1)
    await settle()
    assert world.state() == b"2"


@in_clock_loop
async def test_device_made_anew_while_its_worker_initialises_is_not_given_the_old_disk() -> None:
    """Same domain id, same numbers, same state, another tenant: only the nodes tell."""
    world = await world_initialising()
    on_event, world.store.on_event = world.store.on_event, lambda event: None
    world.store.put(f"{world.back()}/params", b"aio:/another")
    world.store.on_event = on_event  # the events are still on their way
    world.workers.says(TOY, m.Initialised, nodes={"feature-of-the-old-disk": b"1"})
    await settle()
    assert world.state() == b"1"
    assert world.workers.kinds(TOY)[-1] == "Stop"

    world.workers.exits(TOY, 0)
    await settle()
    world.workers.says(TOY, m.Hello)
    await settle()
    assert world.workers.last(TOY, m.Init).backend["params"] == b"aio:/another"
    assert f"{world.back()}/feature-of-the-old-disk" not in world.store.nodes
