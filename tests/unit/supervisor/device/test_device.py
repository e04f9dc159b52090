# SPDX-License-Identifier: MIT
"""A device, its life cycle and what it writes, in a world without process or time."""

from __future__ import annotations

import logging

import pytest

from shared import messages as m
from shared.errors import Blame
from shared.lifecycle_types import WorkerPhase
from shared.xenbus import XenbusState
from tests.fakes.clock_loop import in_clock_loop, pass_time, settle
from tests.fakes.supervisor_world import TOY, World, world_of


@in_clock_loop
async def test_device_main_path_reaches_connected() -> None:
    """From the toolstack's nodes to both ends Connected, in the order of the protocol."""
    world = await world_of()
    await world.serving()
    assert world.workers.kinds(TOY) == ["Init", "Initialise", "Connected"]
    assert world.state() == b"4"
    assert WorkerPhase.SERVING is world.device().lifecycle.worker


@in_clock_loop
async def test_s04_state_is_written_logged_and_only_then_believed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """`old -> new` is logged and the life cycle follows after the write worked, with an event."""
    caplog.set_level(logging.DEBUG, logger="xenbackd")
    world = await world_of()
    world.plug()
    await settle()
    await world.ready()
    assert world.state() == b"2"
    assert XenbusState.INIT_WAIT is world.device().lifecycle.backend
    assert any("Initialising -> InitWait" in line.getMessage() for line in caplog.records)
    assert [event.text for event in world.events.last(100) if event.kind == "state"] == [
        "Initialising -> InitWait"
    ]


@in_clock_loop
async def test_s04_failed_write_leaves_the_state_and_is_tried_again() -> None:
    """xenstored refuses (quota): state stays, the operator is told; later it works."""
    world = await world_of()
    world.plug()
    await settle()
    world.store.refuse = f"{world.back()}/state"
    await world.ready()
    assert XenbusState.INITIALISING is world.device().lifecycle.backend
    assert "ENOSPC" in world.status().error
    world.store.refuse = None
    await pass_time(3)
    assert world.state() == b"2"
    assert XenbusState.INIT_WAIT is world.device().lifecycle.backend


@in_clock_loop
async def test_s12_hotplug_features_and_state_are_one_transaction() -> None:
    """A frontend never sees half of what comes with InitWait."""
    world = await world_of()
    world.plug()
    await settle()
    await world.ready()
    written = {
        path.rpartition("/")[2]: tx
        for path, _, tx in world.store.writes
        if path.startswith(world.back())
    }
    assert {"feature-barrier", "hotplug-status", "state"} == written.keys()
    assert len(set(written.values())) == 1
    assert 0 not in written.values()
    assert world.store.nodes[f"{world.back()}/hotplug-status"] == b"connected"


@in_clock_loop
async def test_s12_init_only_when_online() -> None:
    """A device that is not online has no worker; when it comes online it gets one."""
    world = await world_of()
    world.plug()
    world.store.nodes[f"{world.back()}/online"] = b"0"
    await settle()
    assert TOY in world.registry
    assert world.workers.starts == []
    world.store.put(f"{world.back()}/online", b"1")
    await settle()
    assert world.workers.starts == [(TOY, 1)]


@in_clock_loop
async def test_s13_initialise_waits_for_the_frontend() -> None:
    """In InitWait nothing is asked of the worker until the frontend offers its ring."""
    world = await world_of()
    world.plug()
    await settle()
    await world.ready()
    assert world.workers.kinds(TOY) == ["Init"]
    world.store.put(f"{world.front()}/ring-ref", b"8")
    world.frontend(3)
    await settle()
    order = world.workers.last(TOY, m.Initialise)
    assert not order.resume
    assert order.frontend["ring-ref"] == b"8"
    assert order.backend["params"] == b"aio:/img"


@in_clock_loop
async def test_s13_initialise_failure_leaves_the_state() -> None:
    """A ring that cannot be mapped leaves the backend in InitWait or closes it, never Connected."""
    world = await world_of()
    world.plug()
    await settle()
    await world.ready()
    world.frontend(3)
    await settle()
    world.workers.says(TOY, m.Failed, stage="initialise", blame=Blame.HOST, text="map: no memory")
    await settle()
    assert world.state() == b"2"
    assert world.status().error == "map: no memory"


@in_clock_loop
async def test_s14_connected_hook_follows_the_frontend() -> None:
    """`connected` is asked when both ends are Connected."""
    world = await world_of()
    await world.serving()
    assert world.workers.kinds(TOY).count("Connected") == 1


@in_clock_loop
async def test_s15_frontend_closing_disconnects_once_and_is_followed() -> None:
    """The ring is given back first, then the state follows, into Closing and Closed."""
    world = await world_of()
    await world.serving()
    world.frontend(5)
    await settle()
    assert world.state() == b"4"
    world.workers.says(TOY, m.Disconnected)
    await settle()
    assert world.state() == b"5"
    world.frontend(6)
    await settle()
    assert world.state() == b"6"
    assert world.workers.kinds(TOY).count("Disconnect") == 1


@in_clock_loop
async def test_s16_reset_lets_another_frontend_connect() -> None:
    """Reboot: Closed, then Initialising again, then the same device is Connected anew."""
    world = await world_of()
    await world.serving()
    world.frontend(5)
    await settle()
    world.workers.says(TOY, m.Disconnected)
    world.frontend(6)
    await settle()
    world.frontend(1)
    await settle()
    assert world.state() == b"1"
    world.workers.says(TOY, m.Initialised, nodes={})
    await settle()
    world.frontend(3)
    await settle()
    world.workers.says(TOY, m.Attached, nodes={})
    await settle()
    assert world.state() == b"4"
    assert world.workers.starts == [(TOY, 1)]


@in_clock_loop
async def test_device_removed_while_state_is_written_is_not_made_anew() -> None:
    """The directory vanishes before the write: nothing of it comes back."""
    world = await world_of()
    world.plug()
    await settle()
    world.workers.says(TOY, m.Hello)
    await settle()
    on_event, world.store.on_event = world.store.on_event, lambda event: None
    world.store.remove(world.back())  # and nobody has told us yet
    world.store.on_event = on_event
    world.workers.says(TOY, m.Initialised, nodes={"feature-x": b"1"})
    await settle()
    assert not [path for path in world.store.nodes if path.startswith(world.back())]
    assert WorkerPhase.STOPPING is world.device().lifecycle.worker


@in_clock_loop
async def test_device_directory_made_anew_is_a_new_life() -> None:
    """Removed and created between two reads: the old worker ends, a new device begins."""
    world = await world_of()
    await world.serving()
    old = world.device()
    on_event, world.store.on_event = world.store.on_event, lambda event: None
    world.store.remove(world.back())
    world.plug()
    world.store.on_event = on_event
    world.store.put(f"{world.back()}/state", b"1")
    await settle()
    assert world.workers.starts == [(TOY, 1)], "not before the old one is dead"
    world.workers.exits(TOY, 0)
    await settle()
    assert world.device() is not old
    assert world.workers.starts == [(TOY, 1), (TOY, 1)]


@in_clock_loop
async def test_s09_changed_backend_node_reaches_the_worker() -> None:
    """A node the toolstack changes is passed on; nodes of our own are not."""
    world = await world_of()
    await world.serving()
    world.store.put(f"{world.back()}/params", b"aio:/other")
    await settle()
    changed = world.workers.last(TOY, m.BackendChanged)
    assert (changed.node, changed.value) == ("params", b"aio:/other")
    nodes = {
        order.node for order in world.workers.orders[TOY] if isinstance(order, m.BackendChanged)
    }
    assert not nodes & {"size", "feature-barrier", "hotplug-status", "state"}


@in_clock_loop
async def test_s09_online_absent_is_offline() -> None:
    """`online` is read again at each change; absent counts as 0."""
    world = await world_of()
    await world.serving()
    world.store.remove(f"{world.back()}/online")
    await settle()
    assert not world.device().lifecycle.online


@in_clock_loop
async def test_s10_changed_frontend_node_reaches_the_worker_as_it_is() -> None:
    """What the guest writes is passed on unread."""
    world = await world_of()
    await world.serving()
    world.store.put(f"{world.front()}/feature-x", b"\xff\x00")
    await settle()
    changed = world.workers.last(TOY, m.FrontendChanged)
    assert (changed.node, changed.untrusted_value) == ("feature-x", b"\xff\x00")


@pytest.mark.parametrize("untrusted", [b"", b"44", b"-1", b"x", b"\xff" * 2000, b"4\n"])
@in_clock_loop
async def test_s10_frontend_state_that_is_none_hurts_nobody(untrusted: bytes) -> None:
    """Any bytes in the frontend's state are survived; the device counts as closed."""
    world = await world_of()
    await world.serving()
    world.store.put(f"{world.front()}/state", untrusted)
    await settle()
    assert XenbusState.INVALID is world.device().lifecycle.frontend
    assert world.workers.kinds(TOY)[-1] == "Disconnect"


@in_clock_loop
async def test_s10_frontend_directory_gone_reads_as_unknown() -> None:
    """A guest that removes its directory has closed."""
    world = await world_of()
    await world.serving()
    world.store.remove(world.front())
    await settle()
    assert XenbusState.UNKNOWN is world.device().lifecycle.frontend
    assert world.workers.kinds(TOY)[-1] == "Disconnect"


@in_clock_loop
async def test_device_xenstore_lost_while_starting_is_no_failure_of_the_worker() -> None:
    """The order waits for xenstored to come back; nothing is counted, nobody quarantined."""
    world = await world_of()
    world.plug()
    await settle()
    world.store.lost = True
    world.workers.says(TOY, m.Hello)
    await pass_time(600)
    assert world.workers.killed == []
    world.store.lost = False
    await world.scanner.rescan()
    await settle()
    assert world.workers.kinds(TOY) == ["Init"]
    assert world.status().failures == 0


@in_clock_loop
async def test_device_stand_down_stops_workers_and_leaves_xenstore() -> None:
    """At the end of the supervisor states stay as they are, for the next one to take up."""
    world = await world_of()
    await world.serving()
    before = dict(world.store.nodes)
    world.device().stand_down()
    await settle()
    assert world.workers.kinds(TOY)[-1] == "Stop"
    world.workers.exits(TOY, 0)
    await pass_time(100)
    assert before == world.store.nodes
    assert world.workers.starts == [(TOY, 1)]


@in_clock_loop
async def test_device_successor_publishes_only_what_does_not_stand_there() -> None:
    """No guest waits for what its dead worker's nodes said already; a disk that grew is told."""
    world = await world_of()
    await world.serving()
    world.workers.exits(TOY, -9)
    await settle()
    await world.ready()
    world.store.writes.clear()
    world.workers.says(TOY, m.Attached, nodes={"size": b"16", "unit-size": b"512"})
    await settle()
    written = {
        path.removeprefix(world.back() + "/"): value for path, value, _ in world.store.writes
    }
    assert written == {"size": b"16", "unit-size": b"512"}


@in_clock_loop
async def test_device_connected_at_start_is_taken_up_with_resume() -> None:
    """What an earlier supervisor left Connected is served again, its ring resumed."""
    world = World()
    world.plug(state=4, frontend=4)
    await world.start()
    await world.ready()
    assert world.workers.last(TOY, m.Initialise).resume
    world.workers.says(TOY, m.Attached, nodes={})
    await settle()
    assert world.state() == b"4"
