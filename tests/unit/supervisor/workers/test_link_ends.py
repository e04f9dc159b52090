# SPDX-License-Identifier: MIT
"""What the end of a device's worker leads to, and what is told of it."""

from __future__ import annotations

from config.model import TypeConfig
from shared import messages as m
from shared.device_id import DeviceId
from shared.errors import BackendBug, Blame
from shared.lifecycle_types import Hold, WorkerPhase
from supervisor.operator.reload import reconfigure
from tests.fakes.clock_loop import in_clock_loop, pass_time, settle
from tests.fakes.supervisor_world import ERROR, TOY, world_of


@in_clock_loop
async def test_link_crash_while_connected_resumes_without_a_state_change() -> None:
    """The first crash is answered at once, the ring resumed, and the guest sees no state change."""
    world = await world_of()
    await world.serving()
    writes = len([path for path, _, _ in world.store.writes if path.endswith("/state")])
    world.workers.exits(TOY, -11)
    await settle()
    assert world.workers.starts == [(TOY, 1), (TOY, 2)]
    await world.ready()
    assert world.workers.last(TOY, m.Initialise).resume
    world.workers.says(TOY, m.Attached, nodes={"size": b"8"})
    await settle()
    assert WorkerPhase.SERVING is world.device().lifecycle.worker
    assert writes == len([path for path, _, _ in world.store.writes if path.endswith("/state")])
    assert world.state() == b"4"


@in_clock_loop
async def test_link_five_crashes_quarantine_until_cleared() -> None:
    """Back-off between failures, then quarantine, which only the operator ends."""
    world = await world_of()
    await world.serving()
    for _ in range(5):
        world.workers.exits(TOY, -11)
        await pass_time(5)
    assert len(world.workers.starts) == 5
    assert Hold.QUARANTINED is world.device().lifecycle.hold
    await pass_time(10_000)
    assert len(world.workers.starts) == 5
    world.device().release()
    await settle()
    assert len(world.workers.starts) == 6
    assert world.status().failures == 0


@in_clock_loop
async def test_link_clean_exit_nobody_asked_for_is_a_failure() -> None:
    """Exit code 0 while serving does not make a loop of restarts."""
    world = await world_of()
    await world.serving()
    world.workers.exits(TOY, 0)
    await settle()
    assert world.status().failures == 1


@in_clock_loop
async def test_link_config_error_waits_for_the_operator_and_tells_the_toolstack() -> None:
    """A missing image is not retried until `params` changes; error and hotplug nodes say why."""
    world = await world_of()
    world.plug()
    await settle()
    world.workers.says(TOY, m.Hello)
    await settle()
    world.workers.says(
        TOY, m.Failed, stage="init", blame=Blame.OPERATOR, text="image: /img: no such file"
    )
    await settle()
    world.workers.exits(TOY, 0)
    await pass_time(1000)
    assert Hold.CONFIG is world.device().lifecycle.hold
    assert world.workers.starts == [(TOY, 1)]
    assert world.store.nodes[ERROR] == b"-22 image: /img: no such file"
    assert world.store.nodes[f"{world.back()}/hotplug-status"] == b"error"
    assert world.store.nodes[f"{world.back()}/hotplug-error"] == b"image: /img: no such file"
    world.store.put(f"{world.back()}/params", b"aio:/other")
    await settle()
    assert world.workers.starts == [(TOY, 1), (TOY, 2)]


@in_clock_loop
async def test_s06_handles_that_cannot_be_opened_are_reported_and_nobody_else_hurt() -> None:
    """The worker fails before Hello: error node, log, status; another device is not touched."""
    world = await world_of()
    other = DeviceId("toy", 4, 1)
    await world.serving(other)
    world.plug()
    await settle()
    text = "open handles: /dev/xen/evtchn: permission denied"
    world.workers.says(TOY, m.Failed, stage="alloc", blame=Blame.OPERATOR, text=text)
    await settle()
    world.workers.exits(TOY, 78)
    await settle()
    assert text in world.store.nodes[ERROR].decode()
    assert text == world.status().error
    assert world.status().hold == "config"
    assert WorkerPhase.SERVING is world.device(other).lifecycle.worker


@in_clock_loop
async def test_link_guest_fault_closes_only_this_device() -> None:
    """A frontend that breaks the protocol: its device closes in order, no successor starts."""
    world = await world_of()
    await world.serving()
    world.workers.says(TOY, m.Failed, stage="serve", blame=Blame.GUEST, text="ring: producer ran")
    await settle()
    world.workers.exits(TOY, 0)
    await settle()
    assert world.state() == b"6"
    assert world.workers.starts == [(TOY, 1)]
    assert Hold.GUEST is world.device().lifecycle.hold


@in_clock_loop
async def test_link_broken_protocol_kills_and_counts() -> None:
    """Whatever the bus finds wrong ends the worker and is a failure."""
    world = await world_of()
    await world.serving()
    world.workers.listeners[TOY].worker_broke_protocol(BackendBug("message of worker: garbage"))
    await settle()
    assert world.workers.killed == [TOY]
    assert world.status().failures == 1
    assert world.workers.starts == [(TOY, 1), (TOY, 2)]


@in_clock_loop
async def test_device_held_for_config_tries_again_after_a_reload() -> None:
    """The reload's new options go to a new worker at once."""
    world = await world_of()
    world.plug()
    await settle()
    world.workers.says(TOY, m.Hello)
    world.workers.exits(TOY, 78)
    await settle()
    assert Hold.CONFIG is world.device().lifecycle.hold
    changed = TypeConfig(handler="toy", options={"poll_us": 1})
    reconfigure(world.device(), changed, world.surroundings.config)
    await settle()
    assert world.workers.specs[TOY].options == {"poll_us": 1}


@in_clock_loop
async def test_link_forbidden_system_call_is_quarantine_at_once_and_loud() -> None:
    """SIGSYS: no second try, an event of its own kind, and only `clear` ends it."""
    world = await world_of()
    await world.serving()
    world.workers.exits(TOY, -31)
    await pass_time(1000)
    assert world.workers.starts == [(TOY, 1)]
    assert (world.status().hold, world.status().last_failure) == ("quarantined", "security")
    texts = [event.text for event in world.events.last(10, str(TOY)) if event.kind == "error"]
    assert any(text.startswith("security: ") and "SIGSYS" in text for text in texts)
    world.store.put(f"{world.back()}/params", b"aio:/other")
    await settle()
    assert Hold.QUARANTINED is world.device().lifecycle.hold


@in_clock_loop
async def test_link_third_guest_fault_in_a_minute_is_quarantine_and_closes() -> None:
    """The guest can start again twice; then its device is closed and stays so."""
    world = await world_of()
    await world.serving()
    for _ in range(3):
        world.workers.exits(TOY, 76)
        await settle()
        assert world.state() == b"6"
        world.frontend(6)
        await settle()
        world.frontend(1)
        await settle()
        if TOY in world.workers.specs:
            await world.ready()
            world.frontend(3)
            await settle()
            world.workers.says(TOY, m.Attached, nodes={})
            await settle()
    assert world.status().hold == "quarantined"
    assert world.state() == b"6"
    assert len(world.workers.starts) == 3
    world.device().release()
    await settle()
    assert world.workers.starts[-1] == (TOY, 4)


@in_clock_loop
async def test_link_exit_code_of_a_guest_fault_closes_without_a_word_before() -> None:
    """A worker that could not send `Failed` any more: the exit code is enough."""
    world = await world_of()
    await world.serving()
    world.workers.exits(TOY, 76)
    await settle()
    assert world.state() == b"6"
    assert Hold.GUEST is world.device().lifecycle.hold


@in_clock_loop
async def test_link_kill_by_a_stranger_has_its_word() -> None:
    """SIGKILL that we did not send and the kernel does not own up to: a crash of its own kind."""
    world = await world_of()
    await world.serving()
    world.workers.exits(TOY, -9)
    await settle()
    assert (world.status().last_failure, world.status().failures) == ("killed", 1)
    assert "by neither the supervisor nor the kernel" in world.status().error
