# SPDX-License-Identifier: MIT
"""A device's worker: orders, answers, nodes, deadlines."""

from __future__ import annotations

import logging

import pytest

from config.model import Config, DeviceTimeouts, TypeConfig
from shared import messages as m
from shared.device_id import DeviceId
from shared.errors import Blame
from shared.lifecycle_types import Hold
from tests.fakes.clock_loop import in_clock_loop, pass_time, settle
from tests.fakes.supervisor_world import ERROR, TOY, world_of


@in_clock_loop
async def test_link_full_queue_keeps_changes_until_the_worker_speaks() -> None:
    """A worker that does not read loses no change and is not killed for it."""
    world = await world_of()
    await world.serving()
    world.workers.full.add(TOY)
    world.store.put(f"{world.front()}/feature-x", b"1")
    await settle()
    assert "FrontendChanged" not in world.workers.kinds(TOY)
    world.workers.full.clear()
    world.workers.says(TOY, m.Beat, counters={})
    await settle()
    assert world.workers.last(TOY, m.FrontendChanged).node == "feature-x"
    assert world.workers.killed == []


@in_clock_loop
async def test_publisher_error_node_goes_when_connected_again() -> None:
    """The error of a crash stands until the device is served again."""
    world = await world_of()
    await world.serving()
    world.workers.exits(TOY, -11)
    await settle()
    assert "killed by SIGSEGV" in world.store.nodes[ERROR].decode()
    await world.ready()
    world.workers.says(TOY, m.Attached, nodes={})
    await settle()
    assert ERROR not in world.store.nodes
    assert world.status().error == ""


@pytest.mark.parametrize("silent", ["hello", "init", "attach"])
@in_clock_loop
async def test_link_missed_deadline_kills_and_counts(silent: str) -> None:
    """No Hello, no answer to a hook: ended after `timeouts`, a failure, another is started."""
    world = await world_of()
    world.plug()
    await settle()
    if silent != "hello":
        world.workers.says(TOY, m.Hello)
    if silent == "attach":
        await settle()
        world.workers.says(TOY, m.Initialised, nodes={})
        world.frontend(3)
    await pass_time(10.1)
    assert world.workers.aborted == [TOY]
    assert world.workers.starts == [(TOY, 1), (TOY, 2)]
    assert world.status().failures == 1
    assert "within 10 s" in world.status().error


@in_clock_loop
async def test_link_stop_that_is_not_obeyed_ends_in_a_kill() -> None:
    """A worker of the handler toy has 30 seconds to end."""
    world = await world_of()
    await world.serving()
    world.device().replace_worker()
    await settle()
    assert world.workers.kinds(TOY)[-1] == "Stop"
    await pass_time(29)
    assert world.workers.aborted == []
    await pass_time(1.1)
    assert world.workers.aborted == [TOY]
    assert world.workers.starts == [(TOY, 1), (TOY, 2)]


@in_clock_loop
async def test_link_worker_that_cannot_be_killed_is_never_doubled() -> None:
    """In uninterruptible sleep SIGKILL does nothing: no successor is started, for hours."""
    world = await world_of()
    await world.serving()
    world.workers.die_on_abort = world.workers.die_on_kill = False
    world.device().replace_worker()
    await pass_time(10_000)
    assert world.workers.killed == [TOY]
    assert world.workers.starts == [(TOY, 1)]


@in_clock_loop
async def test_link_answer_out_of_turn_kills_the_worker() -> None:
    """`Attached` from a worker that was not asked: it is broken or taken over."""
    world = await world_of()
    world.plug()
    await settle()
    await world.ready()
    world.workers.says(TOY, m.Attached, nodes={})
    await settle()
    assert world.workers.killed == [TOY]
    assert world.state() == b"2"


@pytest.mark.parametrize("name", ["state", "frontend", "online", "params", "../../x", "a/b"])
@in_clock_loop
async def test_link_forbidden_node_kills_the_worker_and_is_not_written(name: str) -> None:
    """A worker cannot have anything written but what its handler may publish."""
    world = await world_of()
    await world.serving()
    before = dict(world.store.nodes)
    world.workers.says(TOY, m.Publish, nodes={name: b"6"})
    await settle()
    assert world.workers.killed == [TOY]
    del before[f"{world.back()}/state"]
    assert before.items() <= world.store.nodes.items()
    assert world.state() == b"4"


@in_clock_loop
async def test_link_resize_is_published_and_state_written_again() -> None:
    """A worker's `Publish` reaches xenstore, with the state rewritten if it asks for that."""
    world = await world_of()
    await world.serving()
    world.store.writes.clear()
    world.workers.says(TOY, m.Publish, nodes={"size": b"16"}, rewrite_state=True)
    await settle()
    assert [f"{world.back()}/size", f"{world.back()}/state"] == [
        path for path, _, _ in world.store.writes
    ]
    assert world.store.nodes[f"{world.back()}/size"] == b"16"


@in_clock_loop
async def test_link_refused_publish_is_tried_again() -> None:
    """xenstored refuses a resize (quota): it is written as soon as that is over."""
    world = await world_of()
    await world.serving()
    world.store.refuse = f"{world.back()}/size"
    world.workers.says(TOY, m.Publish, nodes={"size": b"16"}, rewrite_state=True)
    await settle()
    world.store.refuse = None
    await pass_time(3)
    assert world.store.nodes[f"{world.back()}/size"] == b"16"


@in_clock_loop
async def test_s25_log_level_changes_for_one_device(caplog: pytest.LogCaptureFixture) -> None:
    """Debug lines appear for one device only, each with its name, and the worker is told."""
    caplog.set_level(logging.DEBUG, logger="xenbackd")
    world = await world_of()
    other = DeviceId("toy", 4, 1)
    await world.serving()
    await world.serving(other)
    world.device().set_log_level("debug")
    caplog.clear()
    for device in (TOY, other):
        world.frontend(5, device)
    await settle()
    lines = [r for r in caplog.records if r.levelno == logging.DEBUG and hasattr(r, "device")]
    assert {"toy/3/51712"} == {getattr(record, "device", "") for record in lines}
    assert world.workers.last(TOY, m.SetLogLevel).level == "debug"


@in_clock_loop
async def test_device_guest_driven_errors_are_bounded_in_the_log() -> None:
    """A guest that toggles its state for ever fills neither log nor event stream."""
    world = await world_of()
    world.plug()
    await settle()
    before = len(world.events.last(1000))
    for _ in range(200):
        world.device().report(Blame.GUEST, "ring: broken", stage="serve")
        await settle(5)
    assert len(world.events.last(1000)) - before < 20


@in_clock_loop
async def test_link_drain_of_a_type_is_the_types_own() -> None:
    """`types.toy.timeouts.drain` counts for its workers, who are told of it."""
    own = DeviceTimeouts(drain=3)
    config = Config(types={"toy": TypeConfig(handler="toy", timeouts=own)})
    world = await world_of(config)
    await world.serving()
    assert world.workers.specs[TOY].drain == 3
    world.device().replace_worker()
    await pass_time(3.1)
    assert world.workers.aborted == [TOY]


@in_clock_loop
async def test_link_worker_that_fails_while_it_stops_still_has_its_deadline() -> None:
    """A dead disk lets the hook fail; if the process then stays, it is ended all the same."""
    world = await world_of()
    await world.serving()
    world.device().replace_worker()
    await pass_time(24)
    world.workers.says(TOY, m.Failed, stage="disconnect", blame=Blame.HOST, text="disconnect: late")
    await pass_time(6.1)
    assert world.workers.aborted == [TOY]


@in_clock_loop
async def test_link_all_workers_drain_at_the_same_time() -> None:
    """When `serve` ends, nobody's thirty seconds begin after another's."""
    world = await world_of()
    devices = [DeviceId("toy", domid, 1) for domid in range(3, 9)]
    for device in devices:
        await world.serving(device)
    for device in devices:
        world.device(device).stand_down()
    assert all(world.workers.kinds(device)[-1] == "Stop" for device in devices)
    await pass_time(30.1)
    assert set(world.workers.aborted) == set(devices)


@in_clock_loop
async def test_link_renewal_is_a_restart_at_once_and_no_failure() -> None:
    """A worker that cannot do what `Init` asks is replaced, and nothing is held against anybody."""
    world = await world_of()
    world.plug()
    await settle()
    world.workers.says(TOY, m.Hello)
    await settle()
    world.workers.says(TOY, m.Renew)
    await settle()
    assert world.workers.starts == [(TOY, 1), (TOY, 2)]
    status = world.status()
    assert (status.failures, status.last_failure, status.error) == (0, "", "")
    assert world.device().link.succession.failures == 0


@in_clock_loop
async def test_link_renewals_without_end_are_bounded_by_the_budget() -> None:
    """A worker that renews itself at each `Init` waits for turns like any that is restarted."""
    world = await world_of()
    world.plug()
    await settle()
    for _ in range(30):
        if world.device().lifecycle.hold is not Hold.NONE:
            break
        world.workers.says(TOY, m.Hello)
        await settle()
        world.workers.says(TOY, m.Renew)
        await settle()
    assert Hold.BUDGET is world.device().lifecycle.hold
    assert len(world.workers.starts) == 21  # the first is free


@in_clock_loop
async def test_link_renewal_nobody_asked_for_is_a_crash() -> None:
    """A worker cannot use it to end uncounted while it serves."""
    world = await world_of()
    await world.serving()
    world.workers.says(TOY, m.Renew)
    await settle()
    assert world.workers.killed == [TOY]
    assert (world.status().failures, world.status().last_failure) == (1, "crash")


@in_clock_loop
async def test_link_jail_is_kept_until_the_worker_is_another_one() -> None:
    """What a worker says of its jail stands in `status`, and not for its successor."""
    world = await world_of()
    await world.serving()
    world.workers.says(TOY, m.Jailed, steps=("no new privileges",), left_out=("x: needs root",))
    await settle()
    assert world.status().jail == ("no new privileges",)
    assert world.status().jail_left_out == ("x: needs root",)
    world.workers.exits(TOY, -11)
    await settle()
    assert world.status().jail == ()
