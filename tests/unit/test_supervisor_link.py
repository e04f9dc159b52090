# SPDX-License-Identifier: MIT
"""A device's worker: orders, answers, deadlines, ends and what is told of them."""

from __future__ import annotations

import logging

import pytest

from config.model import Config, DeviceTimeouts, TypeConfig
from shared import messages as m
from shared.device_id import DeviceId
from shared.errors import BackendBug, Blame
from shared.lifecycle_types import Hold, WorkerPhase
from supervisor.reload import reconfigure
from tests.fakes.clock_loop import in_clock_loop, pass_time, settle
from tests.fakes.supervisor_world import ERROR, VBD, world_of


@in_clock_loop
async def test_link_full_queue_keeps_changes_until_the_worker_speaks() -> None:
    """A worker that does not read loses no change and is not killed for it."""
    world = await world_of()
    await world.serving()
    world.workers.full.add(VBD)
    world.store.put(f"{world.front()}/feature-x", b"1")
    await settle()
    assert "FrontendChanged" not in world.workers.kinds(VBD)
    world.workers.full.clear()
    world.workers.says(VBD, m.Beat, counters={})
    await settle()
    assert world.workers.last(VBD, m.FrontendChanged).node == "feature-x"
    assert world.workers.killed == []


@in_clock_loop
async def test_link_crash_while_connected_resumes_without_a_state_change() -> None:
    """The first crash is answered at once, the ring resumed, and the guest sees no state change."""
    world = await world_of()
    await world.serving()
    writes = len([path for path, _, _ in world.store.writes if path.endswith("/state")])
    world.workers.exits(VBD, -11)
    await settle()
    assert world.workers.starts == [(VBD, 1), (VBD, 2)]
    await world.ready()
    assert world.workers.last(VBD, m.Initialise).resume
    world.workers.says(VBD, m.Attached, nodes={"sectors": b"8"})
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
        world.workers.exits(VBD, -11)
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
    world.workers.exits(VBD, 0)
    await settle()
    assert world.status().failures == 1


@in_clock_loop
async def test_link_config_error_waits_for_the_operator_and_tells_the_toolstack() -> None:
    """A missing image is not retried until `params` changes; error and hotplug nodes say why."""
    world = await world_of()
    world.plug()
    await settle()
    world.workers.says(VBD, m.Hello)
    await settle()
    world.workers.says(
        VBD, m.Failed, stage="init", blame=Blame.OPERATOR, text="image: /img: no such file"
    )
    await settle()
    world.workers.exits(VBD, 0)
    await pass_time(1000)
    assert Hold.CONFIG is world.device().lifecycle.hold
    assert world.workers.starts == [(VBD, 1)]
    assert world.store.nodes[ERROR] == b"-22 image: /img: no such file"
    assert world.store.nodes[f"{world.back()}/hotplug-status"] == b"error"
    assert world.store.nodes[f"{world.back()}/hotplug-error"] == b"image: /img: no such file"
    world.store.put(f"{world.back()}/params", b"aio:/other")
    await settle()
    assert world.workers.starts == [(VBD, 1), (VBD, 2)]


@in_clock_loop
async def test_s06_handles_that_cannot_be_opened_are_reported_and_nobody_else_hurt() -> None:
    """The worker fails before Hello: error node, log, status; another device is not touched."""
    world = await world_of()
    other = DeviceId("vbd", 4, 1)
    await world.serving(other)
    world.plug()
    await settle()
    text = "open handles: /dev/xen/evtchn: permission denied"
    world.workers.says(VBD, m.Failed, stage="alloc", blame=Blame.OPERATOR, text=text)
    await settle()
    world.workers.exits(VBD, 78)
    await settle()
    assert text in world.store.nodes[ERROR].decode()
    assert text == world.status().error
    assert world.status().hold == "config"
    assert WorkerPhase.SERVING is world.device(other).lifecycle.worker


@in_clock_loop
async def test_publisher_error_node_goes_when_connected_again() -> None:
    """The error of a crash stands until the device is served again."""
    world = await world_of()
    await world.serving()
    world.workers.exits(VBD, -11)
    await settle()
    assert "killed by SIGSEGV" in world.store.nodes[ERROR].decode()
    await world.ready()
    world.workers.says(VBD, m.Attached, nodes={})
    await settle()
    assert ERROR not in world.store.nodes
    assert world.status().error == ""


@in_clock_loop
async def test_link_guest_fault_closes_only_this_device() -> None:
    """A frontend that breaks the protocol: its device closes in order, no successor starts."""
    world = await world_of()
    await world.serving()
    world.workers.says(VBD, m.Failed, stage="serve", blame=Blame.GUEST, text="ring: producer ran")
    await settle()
    world.workers.exits(VBD, 0)
    await settle()
    assert world.state() == b"6"
    assert world.workers.starts == [(VBD, 1)]
    assert Hold.GUEST is world.device().lifecycle.hold


@pytest.mark.parametrize("silent", ["hello", "init", "attach"])
@in_clock_loop
async def test_link_missed_deadline_kills_and_counts(silent: str) -> None:
    """No Hello, no answer to a hook: ended after `timeouts`, a failure, another is started."""
    world = await world_of()
    world.plug()
    await settle()
    if silent != "hello":
        world.workers.says(VBD, m.Hello)
    if silent == "attach":
        await settle()
        world.workers.says(VBD, m.Initialised, nodes={})
        world.frontend(3)
    await pass_time(10.1)
    assert world.workers.aborted == [VBD]
    assert world.workers.starts == [(VBD, 1), (VBD, 2)]
    assert world.status().failures == 1
    assert "within 10 s" in world.status().error


@in_clock_loop
async def test_link_stop_that_is_not_obeyed_ends_in_a_kill() -> None:
    """A worker of the handler block has 30 seconds to end."""
    world = await world_of()
    await world.serving()
    world.device().replace_worker()
    await settle()
    assert world.workers.kinds(VBD)[-1] == "Stop"
    await pass_time(29)
    assert world.workers.aborted == []
    await pass_time(1.1)
    assert world.workers.aborted == [VBD]
    assert world.workers.starts == [(VBD, 1), (VBD, 2)]


@in_clock_loop
async def test_link_worker_that_cannot_be_killed_is_never_doubled() -> None:
    """In uninterruptible sleep SIGKILL does nothing: no successor is started, for hours."""
    world = await world_of()
    await world.serving()
    world.workers.die_on_abort = world.workers.die_on_kill = False
    world.device().replace_worker()
    await pass_time(10_000)
    assert world.workers.killed == [VBD]
    assert world.workers.starts == [(VBD, 1)]


@in_clock_loop
async def test_link_answer_out_of_turn_kills_the_worker() -> None:
    """`Attached` from a worker that was not asked: it is broken or taken over."""
    world = await world_of()
    world.plug()
    await settle()
    await world.ready()
    world.workers.says(VBD, m.Attached, nodes={})
    await settle()
    assert world.workers.killed == [VBD]
    assert world.state() == b"2"


@pytest.mark.parametrize("name", ["state", "frontend", "online", "params", "../../x", "a/b"])
@in_clock_loop
async def test_link_forbidden_node_kills_the_worker_and_is_not_written(name: str) -> None:
    """A worker cannot have anything written but what its handler may publish."""
    world = await world_of()
    await world.serving()
    before = dict(world.store.nodes)
    world.workers.says(VBD, m.Publish, nodes={name: b"6"})
    await settle()
    assert world.workers.killed == [VBD]
    del before[f"{world.back()}/state"]
    assert before.items() <= world.store.nodes.items()
    assert world.state() == b"4"


@in_clock_loop
async def test_link_broken_protocol_kills_and_counts() -> None:
    """Whatever the bus finds wrong ends the worker and is a failure."""
    world = await world_of()
    await world.serving()
    world.workers.listeners[VBD].worker_broke_protocol(BackendBug("message of worker: garbage"))
    await settle()
    assert world.workers.killed == [VBD]
    assert world.status().failures == 1
    assert world.workers.starts == [(VBD, 1), (VBD, 2)]


@in_clock_loop
async def test_link_resize_is_published_and_state_written_again() -> None:
    """A worker's `Publish` reaches xenstore, with the state rewritten if it asks for that."""
    world = await world_of()
    await world.serving()
    world.store.writes.clear()
    world.workers.says(VBD, m.Publish, nodes={"sectors": b"16"}, rewrite_state=True)
    await settle()
    assert [f"{world.back()}/sectors", f"{world.back()}/state"] == [
        path for path, _, _ in world.store.writes
    ]
    assert world.store.nodes[f"{world.back()}/sectors"] == b"16"


@in_clock_loop
async def test_link_refused_publish_is_tried_again() -> None:
    """xenstored refuses a resize (quota): it is written as soon as that is over."""
    world = await world_of()
    await world.serving()
    world.store.refuse = f"{world.back()}/sectors"
    world.workers.says(VBD, m.Publish, nodes={"sectors": b"16"}, rewrite_state=True)
    await settle()
    world.store.refuse = None
    await pass_time(3)
    assert world.store.nodes[f"{world.back()}/sectors"] == b"16"


@in_clock_loop
async def test_device_held_for_config_tries_again_after_a_reload() -> None:
    """The reload's new options go to a new worker at once."""
    world = await world_of()
    world.plug()
    await settle()
    world.workers.says(VBD, m.Hello)
    world.workers.exits(VBD, 78)
    await settle()
    assert Hold.CONFIG is world.device().lifecycle.hold
    changed = TypeConfig(handler="block", options={"poll_us": 1})
    reconfigure(world.device(), changed, world.services.config)
    await settle()
    assert world.workers.specs[VBD].options == {"poll_us": 1}


@in_clock_loop
async def test_s25_log_level_changes_for_one_device(caplog: pytest.LogCaptureFixture) -> None:
    """Debug lines appear for one device only, each with its name, and the worker is told."""
    caplog.set_level(logging.DEBUG, logger="xenbackd")
    world = await world_of()
    other = DeviceId("vbd", 4, 1)
    await world.serving()
    await world.serving(other)
    world.device().set_log_level("debug")
    caplog.clear()
    for device in (VBD, other):
        world.frontend(5, device)
    await settle()
    lines = [r for r in caplog.records if r.levelno == logging.DEBUG and hasattr(r, "device")]
    assert {"vbd/3/51712"} == {getattr(record, "device", "") for record in lines}
    assert world.workers.last(VBD, m.SetLogLevel).level == "debug"


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
async def test_link_forbidden_system_call_is_quarantine_at_once_and_loud() -> None:
    """SIGSYS: no second try, an event of its own kind, and only `clear` ends it."""
    world = await world_of()
    await world.serving()
    world.workers.exits(VBD, -31)
    await pass_time(1000)
    assert world.workers.starts == [(VBD, 1)]
    assert (world.status().hold, world.status().last_failure) == ("quarantined", "security")
    texts = [event.text for event in world.events.last(10, str(VBD)) if event.kind == "error"]
    assert any(text.startswith("security: ") and "SIGSYS" in text for text in texts)
    world.store.put(f"{world.back()}/params", b"aio:/other")
    await settle()
    assert Hold.QUARANTINED is world.device().lifecycle.hold


@in_clock_loop
async def test_link_third_guest_fault_in_a_minute_is_quarantine_and_closes() -> None:
    """The guest can start anew twice; then its device is closed and stays so."""
    world = await world_of()
    await world.serving()
    for _ in range(3):
        world.workers.exits(VBD, 76)
        await settle()
        assert world.state() == b"6"
        world.frontend(6)
        await settle()
        world.frontend(1)
        await settle()
        if VBD in world.workers.specs:
            await world.ready()
            world.frontend(3)
            await settle()
            world.workers.says(VBD, m.Attached, nodes={})
            await settle()
    assert world.status().hold == "quarantined"
    assert world.state() == b"6"
    assert len(world.workers.starts) == 3
    world.device().release()
    await settle()
    assert world.workers.starts[-1] == (VBD, 4)


@in_clock_loop
async def test_link_exit_code_of_a_guest_fault_closes_without_a_word_before() -> None:
    """A worker that could not send `Failed` any more: the exit code is enough."""
    world = await world_of()
    await world.serving()
    world.workers.exits(VBD, 76)
    await settle()
    assert world.state() == b"6"
    assert Hold.GUEST is world.device().lifecycle.hold


@in_clock_loop
async def test_link_kill_by_a_stranger_has_its_word() -> None:
    """SIGKILL that we did not send and the kernel does not own up to: a crash of its own kind."""
    world = await world_of()
    await world.serving()
    world.workers.exits(VBD, -9)
    await settle()
    assert (world.status().last_failure, world.status().failures) == ("killed", 1)
    assert "by neither the supervisor nor the kernel" in world.status().error


@in_clock_loop
async def test_link_drain_of_a_type_is_the_types_own() -> None:
    """`types.vbd.timeouts.drain` counts for its workers, who are told of it."""
    own = DeviceTimeouts(drain=3)
    config = Config(types={"vbd": TypeConfig(handler="block", timeouts=own)})
    world = await world_of(config)
    await world.serving()
    assert world.workers.specs[VBD].drain == 3
    world.device().replace_worker()
    await pass_time(3.1)
    assert world.workers.aborted == [VBD]


@in_clock_loop
async def test_link_worker_that_fails_while_it_stops_still_has_its_deadline() -> None:
    """A dead disk lets the hook fail; if the process then stays, it is ended all the same."""
    world = await world_of()
    await world.serving()
    world.device().replace_worker()
    await pass_time(24)
    world.workers.says(VBD, m.Failed, stage="disconnect", blame=Blame.HOST, text="disconnect: late")
    await pass_time(6.1)
    assert world.workers.aborted == [VBD]


@in_clock_loop
async def test_link_all_workers_drain_at_the_same_time() -> None:
    """When `serve` ends, nobody's thirty seconds begin after another's."""
    world = await world_of()
    devices = [DeviceId("vbd", domid, 1) for domid in range(3, 9)]
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
    world.workers.says(VBD, m.Hello)
    await settle()
    world.workers.says(VBD, m.Renew)
    await settle()
    assert world.workers.starts == [(VBD, 1), (VBD, 2)]
    status = world.status()
    assert (status.failures, status.last_failure, status.error) == (0, "", "")
    assert world.device().link.failures == 0


@in_clock_loop
async def test_link_renewals_without_end_are_bounded_by_the_budget() -> None:
    """A worker that renews itself at each `Init` waits for turns like any that is restarted."""
    world = await world_of()
    world.plug()
    await settle()
    for _ in range(30):
        if world.device().lifecycle.hold is not Hold.NONE:
            break
        world.workers.says(VBD, m.Hello)
        await settle()
        world.workers.says(VBD, m.Renew)
        await settle()
    assert Hold.BUDGET is world.device().lifecycle.hold
    assert len(world.workers.starts) == 21  # the first is free


@in_clock_loop
async def test_link_renewal_nobody_asked_for_is_a_crash() -> None:
    """A worker cannot use it to end uncounted while it serves."""
    world = await world_of()
    await world.serving()
    world.workers.says(VBD, m.Renew)
    await settle()
    assert world.workers.killed == [VBD]
    assert (world.status().failures, world.status().last_failure) == (1, "crash")


@in_clock_loop
async def test_link_jail_is_kept_until_the_worker_is_another_one() -> None:
    """What a worker says of its jail stands in `status`, and not for its successor."""
    world = await world_of()
    await world.serving()
    world.workers.says(VBD, m.Jailed, steps=("no new privileges",), left_out=("x: needs root",))
    await settle()
    assert world.status().jail == ("no new privileges",)
    assert world.status().jail_left_out == ("x: needs root",)
    world.workers.exits(VBD, -11)
    await settle()
    assert world.status().jail == ()
