# SPDX-License-Identifier: MIT
"""Scanner, device, worker link and publisher together, in a world without process or time."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from config.model import Config, LimitsConfig, TypeConfig
from shared import messages as m
from shared.device_id import DeviceId
from shared.errors import BackendBug, Blame
from shared.lifecycle_types import Hold, WorkerPhase
from shared.xenbus import XenbusState
from tests.fakes.clock_loop import run, settle
from tests.fakes.supervisor_world import OWN, VBD, World

ERROR = f"{OWN}/error/backend/{VBD}/error"


def in_clock_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test in a loop whose time is not the machine's."""

    @functools.wraps(test)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        run(test(*args, **kwargs))

    return wrapper


async def world_of(config: Config | None = None) -> World:
    world = World(config)
    await world.start()
    return world


async def pass_time(seconds: float) -> None:
    import asyncio

    await asyncio.sleep(seconds)
    await settle()


@pytest.fixture(autouse=True)
def _quiet_clock(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    # Another test may have called logs.setup, which takes the lines away from caplog.
    monkeypatch.setattr(logging.getLogger("xenbackd"), "propagate", True)
    caplog.set_level(logging.DEBUG, logger="xenbackd")


@in_clock_loop
async def test_device_main_path_reaches_connected() -> None:
    """From the toolstack's nodes to both ends Connected, in the order of the protocol."""
    world = await world_of()
    await world.serving()
    assert world.workers.kinds(VBD) == ["Init", "Initialise", "Connected"]
    assert world.state() == b"4"
    assert WorkerPhase.SERVING is world.device().lifecycle.worker


@in_clock_loop
async def test_s18_scan_takes_up_what_is_there_and_watches_first() -> None:
    """One watch per type for all domains; devices that were there before are taken up."""
    world = World()
    world.plug(VBD)
    world.plug(DeviceId("vbd", 9, 1))
    await world.start()
    assert (f"{OWN}/backend/vbd", "type:vbd") in world.store.watches
    assert {VBD, DeviceId("vbd", 9, 1)} == {device.id for device in world.registry}


@in_clock_loop
async def test_s18_absent_directory_is_no_error() -> None:
    """No backend directory yet: nothing to take up, and the watch stands."""
    world = await world_of()
    assert len(world.registry) == 0
    world.plug()
    await settle()
    assert VBD in world.registry


@in_clock_loop
async def test_s18_failing_watch_is_an_error() -> None:
    """Without its watch a type cannot be served, and that is said."""
    world = World()
    world.store.refused_watches.add(f"{OWN}/backend/vbd")
    with pytest.raises(Exception, match="backend/vbd: refused"):
        await world.scanner.open()


@in_clock_loop
async def test_scanner_special_watches_refused_still_serves() -> None:
    """In a driver domain @releaseDomain may be forbidden; devices are served all the same."""
    world = World()
    world.store.refused_watches |= {"@releaseDomain", "@introduceDomain"}
    world.plug()
    await world.start()
    assert VBD in world.registry


@in_clock_loop
async def test_s05_many_events_for_one_device_make_one() -> None:
    """However many events tell of a new device, it is there once and has one worker."""
    world = await world_of()
    world.plug()
    for _ in range(50):
        world.store.put(f"{world.back()}/params", b"aio:/img")
    await settle()
    assert len(world.registry) == 1
    assert world.workers.starts == [(VBD, 1)]


@in_clock_loop
async def test_s04_state_is_written_logged_and_only_then_believed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """`old -> new` is logged and the life cycle follows after the write worked, with an event."""
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
    assert VBD in world.registry
    assert world.workers.starts == []
    world.store.put(f"{world.back()}/online", b"1")
    await settle()
    assert world.workers.starts == [(VBD, 1)]


@in_clock_loop
async def test_s13_initialise_waits_for_the_frontend() -> None:
    """In InitWait nothing is asked of the worker until the frontend offers its ring."""
    world = await world_of()
    world.plug()
    await settle()
    await world.ready()
    assert world.workers.kinds(VBD) == ["Init"]
    world.store.put(f"{world.front()}/ring-ref", b"8")
    world.frontend(3)
    await settle()
    order = world.workers.last(VBD, m.Initialise)
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
    world.workers.says(VBD, m.Failed, stage="initialise", blame=Blame.HOST, text="map: no memory")
    await settle()
    assert world.state() == b"2"
    assert world.status().error == "map: no memory"


@in_clock_loop
async def test_s14_connected_hook_follows_the_frontend() -> None:
    """`connected` is asked when both ends are Connected."""
    world = await world_of()
    await world.serving()
    assert world.workers.kinds(VBD).count("Connected") == 1


@in_clock_loop
async def test_s15_frontend_closing_disconnects_once_and_is_followed() -> None:
    """The ring is given back first, then the state follows, into Closing and Closed."""
    world = await world_of()
    await world.serving()
    world.frontend(5)
    await settle()
    assert world.state() == b"4"
    world.workers.says(VBD, m.Disconnected)
    await settle()
    assert world.state() == b"5"
    world.frontend(6)
    await settle()
    assert world.state() == b"6"
    assert world.workers.kinds(VBD).count("Disconnect") == 1


@in_clock_loop
async def test_s16_reset_lets_another_frontend_connect() -> None:
    """Reboot: Closed, then Initialising again, then the same device is Connected anew."""
    world = await world_of()
    await world.serving()
    world.frontend(5)
    await settle()
    world.workers.says(VBD, m.Disconnected)
    world.frontend(6)
    await settle()
    world.frontend(1)
    await settle()
    assert world.state() == b"1"
    world.workers.says(VBD, m.Initialised, nodes={})
    await settle()
    world.frontend(3)
    await settle()
    world.workers.says(VBD, m.Attached, nodes={})
    await settle()
    assert world.state() == b"4"
    assert world.workers.starts == [(VBD, 1)]


@in_clock_loop
async def test_s08_domain_death_forgets_all_its_devices() -> None:
    """All devices of a dead domain go, their workers end, their watches are taken back."""
    world = await world_of()
    other = DeviceId("vbd", 4, 1)
    second = DeviceId("vbd", 3, 2)
    for device in (VBD, second, other):
        await world.serving(device)
    world.store.domain_dies(3)
    await settle()
    for device in (VBD, second):
        assert world.workers.kinds(device)[-1] == "Stop"
        world.workers.exits(device, 0)
    await settle()
    assert [other] == [device.id for device in world.registry]
    assert [f"device:{other}"] == [t for _, t in world.store.watches if t.startswith("device:")]
    assert world.state(VBD) == b"4", "the directories are the toolstack's"


@in_clock_loop
async def test_s19_removed_backend_directory_ends_the_device_and_creates_nothing() -> None:
    """Hard unplug: the worker ends, and not one node is made anew."""
    world = await world_of()
    await world.serving()
    world.store.remove(world.back())
    await settle()
    world.workers.exits(VBD, 0)
    await settle()
    assert VBD not in world.registry
    assert not [path for path in world.store.nodes if path.startswith(f"{OWN}/backend/vbd/3")]
    assert not [path for path in world.store.nodes if path.startswith(f"{OWN}/error/")]


@in_clock_loop
async def test_s19_removal_of_a_whole_domain_directory_is_seen() -> None:
    """The event names a level above the device."""
    world = await world_of()
    await world.serving()
    world.store.remove(f"{OWN}/backend/vbd/3")
    await settle()
    world.workers.exits(VBD, 0)
    await settle()
    assert VBD not in world.registry


@in_clock_loop
async def test_device_removed_while_state_is_written_is_not_made_anew() -> None:
    """The directory vanishes before the write: nothing of it comes back."""
    world = await world_of()
    world.plug()
    await settle()
    world.workers.says(VBD, m.Hello)
    await settle()
    on_event, world.store.on_event = world.store.on_event, lambda event: None
    world.store.remove(world.back())  # and nobody has told us yet
    world.store.on_event = on_event
    world.workers.says(VBD, m.Initialised, nodes={"feature-x": b"1"})
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
    assert world.workers.starts == [(VBD, 1)], "not before the old one is dead"
    world.workers.exits(VBD, 0)
    await settle()
    assert world.device() is not old
    assert world.workers.starts == [(VBD, 1), (VBD, 1)]


@in_clock_loop
async def test_s11_wrong_initial_state_is_said_with_device_and_node() -> None:
    """A backend that starts in no state of ours is refused, and tried again when it changes."""
    world = await world_of()
    world.plug(state=7)
    await settle()
    assert VBD not in world.registry
    told = [event for event in world.events.last(10) if event.kind == "set-up"]
    assert len(told) == 1
    assert "vbd/3/51712" in told[0].text
    assert "node state" in told[0].text
    assert "initial backend state is wrong" in world.store.nodes[ERROR].decode()
    world.store.put(f"{world.back()}/state", b"1")
    await settle()
    assert VBD in world.registry


@in_clock_loop
async def test_s11_frontend_node_absent_or_foreign_is_said() -> None:
    """The frontend path comes from the backend directory and must be the guest's own."""
    world = await world_of()
    world.plug()
    del world.store.nodes[f"{world.back()}/frontend"]
    await settle()
    assert VBD not in world.registry
    world.store.put(f"{world.back()}/frontend", b"/local/domain/9/device/vbd/1")
    await settle()
    assert VBD not in world.registry
    told = [event.text for event in world.events.last(10) if event.kind == "set-up"]
    assert all("vbd/3/51712: node frontend" in text for text in told)
    assert len(told) == 2


@in_clock_loop
async def test_s09_changed_backend_node_reaches_the_worker() -> None:
    """A node the toolstack changes is passed on; nodes of our own are not."""
    world = await world_of()
    await world.serving()
    world.store.put(f"{world.back()}/params", b"aio:/other")
    await settle()
    changed = world.workers.last(VBD, m.BackendChanged)
    assert (changed.node, changed.value) == ("params", b"aio:/other")
    nodes = {
        order.node for order in world.workers.orders[VBD] if isinstance(order, m.BackendChanged)
    }
    assert not nodes & {"sectors", "feature-barrier", "hotplug-status", "state"}


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
    changed = world.workers.last(VBD, m.FrontendChanged)
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
    assert world.workers.kinds(VBD)[-1] == "Disconnect"


@in_clock_loop
async def test_s10_frontend_directory_gone_reads_as_unknown() -> None:
    """A guest that removes its directory has closed."""
    world = await world_of()
    await world.serving()
    world.store.remove(world.front())
    await settle()
    assert XenbusState.UNKNOWN is world.device().lifecycle.frontend
    assert world.workers.kinds(VBD)[-1] == "Disconnect"


@in_clock_loop
async def test_s20_neighbour_with_the_same_beginning_is_not_heard() -> None:
    """Events below /…/51712x are not those of /…/51712."""
    world = await world_of()
    await world.serving()
    before = len(world.workers.orders[VBD])
    from tests.fakes.supervisor_world import Event

    world.scanner.dispatch(Event(f"{world.front()}x/state", f"device:{VBD}"))
    await settle()
    assert before == len(world.workers.orders[VBD])


@in_clock_loop
async def test_s20_flood_of_one_frontend_keeps_bounded_work() -> None:
    """Ten thousand events before anyone looks are a handful of orders."""
    world = await world_of()
    await world.serving()
    for number in range(10_000):
        world.store.put(f"{world.front()}/noise", b"%d" % number)
    await settle()
    assert world.workers.kinds(VBD).count("FrontendChanged") == 1


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
async def test_link_five_crashes_quarantine_until_restart() -> None:
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
    world.device().replace_worker()
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
    """No Hello, no answer to a hook: killed after `timeouts`, a failure, another is started."""
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
    assert world.workers.killed == [VBD]
    assert world.workers.starts == [(VBD, 1), (VBD, 2)]
    assert world.status().failures == 1
    assert "within 10 s" in world.status().error


@in_clock_loop
async def test_link_stop_that_is_not_obeyed_ends_in_a_kill() -> None:
    """A worker has `timeouts.drain` seconds to end."""
    world = await world_of()
    await world.serving()
    world.device().replace_worker()
    await settle()
    assert world.workers.kinds(VBD)[-1] == "Stop"
    assert world.workers.killed == []
    await pass_time(10.1)
    assert world.workers.killed == [VBD]
    assert world.workers.starts == [(VBD, 1), (VBD, 2)]


@in_clock_loop
async def test_link_worker_that_cannot_be_killed_is_never_doubled() -> None:
    """In uninterruptible sleep SIGKILL does nothing: no successor is started, for hours."""
    world = await world_of()
    await world.serving()
    world.workers.die_on_kill = False
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
async def test_device_xenstore_lost_while_starting_is_no_failure_of_the_worker() -> None:
    """The order waits for xenstored to come back; nothing is counted, nobody quarantined."""
    world = await world_of()
    world.plug()
    await settle()
    world.store.lost = True
    world.workers.says(VBD, m.Hello)
    await pass_time(600)
    assert world.workers.killed == []
    world.store.lost = False
    await world.scanner.rescan()
    await settle()
    assert world.workers.kinds(VBD) == ["Init"]
    assert world.status().failures == 0


@in_clock_loop
async def test_scanner_rescan_finds_what_changed_meanwhile() -> None:
    """After xenstored came back: vanished devices go, new ones are taken up, states are read."""
    world = await world_of()
    new, third = DeviceId("vbd", 8, 1), DeviceId("vbd", 7, 1)
    await world.serving()
    await world.serving(third)
    on_event, world.store.on_event = world.store.on_event, lambda event: None
    world.store.remove(world.back())
    world.plug(new)
    world.frontend(5, third)
    world.store.on_event = on_event
    await world.scanner.rescan()
    await settle()
    world.workers.exits(VBD, 0)
    await settle()
    assert {new, third} == {device.id for device in world.registry}
    assert world.workers.kinds(third)[-1] == "Disconnect"


@in_clock_loop
async def test_scanner_domain_not_known_has_no_devices_until_introduced() -> None:
    """What a dead domain left is not taken up; a domain that is introduced is."""
    from tests.fakes.supervisor_world import Event

    world = await world_of()
    world.plug()
    world.store.domains.discard(3)
    await settle()
    assert VBD not in world.registry
    world.store.domains.add(3)
    world.scanner.dispatch(Event("@introduceDomain", "@introduceDomain"))
    await settle()
    assert VBD in world.registry


@in_clock_loop
async def test_scanner_limit_of_devices_per_domain_holds() -> None:
    """A domain gets no more devices than the configuration allows; others are not affected."""
    config = Config(
        types={"vbd": TypeConfig(handler="block")}, limits=LimitsConfig(devices_per_domain=2)
    )
    world = await world_of(config)
    for devid in range(4):
        world.plug(DeviceId("vbd", 3, devid))
    world.plug(DeviceId("vbd", 4, 0))
    await settle()
    assert len(world.registry.of_domain(3)) == 2
    assert len(world.registry.of_domain(4)) == 1
    assert [m for m in world.events.last(10) if "devices_per_domain" in m.text]


@in_clock_loop
async def test_scanner_type_switched_off_closes_and_on_again_takes_up() -> None:
    """Off: closed in order and forgotten, the frontend served until it closes. On: scanned."""
    world = await world_of()
    await world.serving()
    world.scanner.disable("vbd")
    await settle()
    assert world.state() == b"5"
    assert "Disconnect" not in world.workers.kinds(VBD)
    world.frontend(6)
    await settle()
    world.workers.says(VBD, m.Disconnected)
    await settle()
    world.workers.exits(VBD, 0)
    await settle()
    assert world.state() == b"6"
    assert VBD not in world.registry
    world.frontend(1)
    await world.scanner.enable("vbd")
    await settle()
    assert VBD in world.registry


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
    world.device().reconfigure(TypeConfig(handler="block", options={"poll_us": 1}))
    await settle()
    assert world.workers.specs[VBD].options == {"poll_us": 1}


@in_clock_loop
async def test_device_stand_down_stops_workers_and_leaves_xenstore() -> None:
    """At the end of the supervisor states stay as they are, for the next one to take up."""
    world = await world_of()
    await world.serving()
    before = dict(world.store.nodes)
    world.device().stand_down()
    await settle()
    assert world.workers.kinds(VBD)[-1] == "Stop"
    world.workers.exits(VBD, 0)
    await pass_time(100)
    assert before == world.store.nodes
    assert world.workers.starts == [(VBD, 1)]


@in_clock_loop
async def test_device_connected_at_start_is_taken_up_with_resume() -> None:
    """What an earlier supervisor left Connected is served again, its ring resumed."""
    world = World()
    world.plug(state=4, frontend=4)
    await world.start()
    await world.ready()
    assert world.workers.last(VBD, m.Initialise).resume
    world.workers.says(VBD, m.Attached, nodes={})
    await settle()
    assert world.state() == b"4"


@in_clock_loop
async def test_s25_log_level_changes_for_one_device(caplog: pytest.LogCaptureFixture) -> None:
    """Debug lines appear for one device only, each with its name, and the worker is told."""
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
