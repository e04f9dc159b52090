# SPDX-License-Identifier: MIT
"""The scanner: what is found, watched, taken up and forgotten."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from config.model import Config, LimitsConfig, TypeConfig
from shared import messages as m
from shared.device_id import DeviceId
from shared.device_types import RESOLVED, resolve
from shared.xenstore.wire import WatchEvent
from tests.fakes.clock_loop import in_clock_loop, settle
from tests.fakes.supervisor_world import ERROR, OWN, TOY, World, world_of


@in_clock_loop
async def test_s18_scan_takes_up_what_is_there_and_watches_first() -> None:
    """One watch per type for all domains; devices that were there before are taken up."""
    world = World()
    world.plug(TOY)
    world.plug(DeviceId("toy", 9, 1))
    await world.start()
    assert (f"{OWN}/backend/toy", "type:toy") in world.store.watches
    assert {TOY, DeviceId("toy", 9, 1)} == {device.id for device in world.registry}


@in_clock_loop
async def test_s18_absent_directory_is_no_error() -> None:
    """No backend directory yet: nothing to take up, and the watch stands."""
    world = await world_of()
    assert len(world.registry) == 0
    world.plug()
    await settle()
    assert TOY in world.registry


@in_clock_loop
async def test_s18_failing_watch_is_an_error() -> None:
    """Without its watch a type cannot be served, and that is said."""
    world = World()
    world.store.refused_watches.add(f"{OWN}/backend/toy")
    with pytest.raises(Exception, match="backend/toy: refused"):
        await world.scanner.open()


@in_clock_loop
async def test_scanner_special_watches_refused_still_serves() -> None:
    """In a driver domain @releaseDomain may be forbidden; devices are served all the same."""
    world = World()
    world.store.refused_watches |= {"@releaseDomain", "@introduceDomain"}
    world.plug()
    await world.start()
    assert TOY in world.registry


@in_clock_loop
async def test_s05_many_events_for_one_device_make_one() -> None:
    """However many events tell of a new device, it is there once and has one worker."""
    world = await world_of()
    world.plug()
    for _ in range(50):
        world.store.put(f"{world.back()}/params", b"aio:/img")
    await settle()
    assert len(world.registry) == 1
    assert world.workers.starts == [(TOY, 1)]


@in_clock_loop
async def test_s08_domain_death_forgets_all_its_devices() -> None:
    """All devices of a dead domain go, their workers end, their watches are taken back."""
    world = await world_of()
    other = DeviceId("toy", 4, 1)
    second = DeviceId("toy", 3, 2)
    for device in (TOY, second, other):
        await world.serving(device)
    world.store.domain_dies(3)
    await settle()
    for device in (TOY, second):
        assert world.workers.kinds(device)[-1] == "Stop"
        world.workers.exits(device, 0)
    await settle()
    assert [other] == [device.id for device in world.registry]
    assert [f"device:{other}"] == [t for _, t in world.store.watches if t.startswith("device:")]
    assert world.state(TOY) == b"4", "the directories are the toolstack's"


@in_clock_loop
async def test_s19_removed_backend_directory_ends_the_device_and_creates_nothing() -> None:
    """Hard unplug: the worker ends, and not one node is made anew."""
    world = await world_of()
    await world.serving()
    world.store.remove(world.back())
    await settle()
    world.workers.exits(TOY, 0)
    await settle()
    assert TOY not in world.registry
    assert not [path for path in world.store.nodes if path.startswith(f"{OWN}/backend/toy/3")]
    assert not [path for path in world.store.nodes if path.startswith(f"{OWN}/error/")]


@in_clock_loop
async def test_s19_removal_of_a_whole_domain_directory_is_seen() -> None:
    """The event names a level above the device."""
    world = await world_of()
    await world.serving()
    world.store.remove(f"{OWN}/backend/toy/3")
    await settle()
    world.workers.exits(TOY, 0)
    await settle()
    assert TOY not in world.registry


@in_clock_loop
async def test_s11_wrong_initial_state_is_said_with_device_and_node() -> None:
    """A backend that starts in no state of ours is refused, and tried again when it changes."""
    world = await world_of()
    world.plug(state=7)
    await settle()
    assert TOY not in world.registry
    told = [event for event in world.events.last(10) if event.kind == "set-up"]
    assert len(told) == 1
    assert "toy/3/51712" in told[0].text
    assert "node state" in told[0].text
    assert "initial backend state is wrong" in world.store.nodes[ERROR].decode()
    world.store.put(f"{world.back()}/state", b"1")
    await settle()
    assert TOY in world.registry
    assert ERROR not in world.store.nodes


@in_clock_loop
async def test_s11_refused_device_that_goes_leaves_no_error_behind() -> None:
    """It was never a device of ours, but what was said of it was ours."""
    world = await world_of()
    world.plug(state=7)
    await settle()
    assert ERROR in world.store.nodes
    world.store.remove(world.back())
    await settle()
    assert ERROR not in world.store.nodes


@in_clock_loop
async def test_s11_frontend_node_absent_or_foreign_is_said() -> None:
    """The frontend path comes from the backend directory and must be the guest's own."""
    world = await world_of()
    world.plug()
    del world.store.nodes[f"{world.back()}/frontend"]
    await settle()
    assert TOY not in world.registry
    world.store.put(f"{world.back()}/frontend", b"/local/domain/9/device/toy/1")
    await settle()
    assert TOY not in world.registry
    told = [event.text for event in world.events.last(10) if event.kind == "set-up"]
    assert all("toy/3/51712: node frontend" in text for text in told)
    assert len(told) == 2


@in_clock_loop
async def test_s20_neighbour_with_the_same_beginning_is_not_heard() -> None:
    """Events below /…/51712x are not those of /…/51712."""
    world = await world_of()
    await world.serving()
    before = len(world.workers.orders[TOY])
    world.scanner.dispatch(WatchEvent(f"{world.front()}x/state", f"device:{TOY}"))
    await settle()
    assert before == len(world.workers.orders[TOY])


@in_clock_loop
async def test_s20_flood_of_one_frontend_keeps_bounded_work() -> None:
    """Ten thousand events before anyone looks are a handful of orders."""
    world = await world_of()
    await world.serving()
    for number in range(10_000):
        world.store.put(f"{world.front()}/noise", b"%d" % number)
    await settle()
    assert world.workers.kinds(TOY).count("FrontendChanged") == 1


@in_clock_loop
async def test_scanner_rescan_finds_what_changed_meanwhile() -> None:
    """After xenstored came back: vanished devices go, new ones are taken up, states are read."""
    world = await world_of()
    new, third = DeviceId("toy", 8, 1), DeviceId("toy", 7, 1)
    await world.serving()
    await world.serving(third)
    on_event, world.store.on_event = world.store.on_event, lambda event: None
    world.store.remove(world.back())
    world.plug(new)
    world.frontend(5, third)
    world.store.on_event = on_event
    await world.scanner.rescan()
    await settle()
    world.workers.exits(TOY, 0)
    await settle()
    assert {new, third} == {device.id for device in world.registry}
    assert world.workers.kinds(third)[-1] == "Disconnect"


@in_clock_loop
async def test_scanner_domain_not_known_has_no_devices_until_introduced() -> None:
    """What a dead domain left is not taken up; a domain that is introduced is."""
    world = await world_of()
    world.plug()
    world.store.domains.discard(3)
    await settle()
    assert TOY not in world.registry
    world.store.domains.add(3)
    world.scanner.dispatch(WatchEvent("@introduceDomain", "@introduceDomain"))
    await settle()
    assert TOY in world.registry


@in_clock_loop
async def test_scanner_limit_of_devices_per_domain_holds() -> None:
    """A domain gets no more devices than the configuration allows; others are not affected."""
    config = Config(
        types={"toy": TypeConfig(handler="toy")}, limits=LimitsConfig(devices_per_domain=2)
    )
    world = await world_of(config)
    for devid in range(4):
        world.plug(DeviceId("toy", 3, devid))
    world.plug(DeviceId("toy", 4, 0))
    await settle()
    assert len(world.registry.of_domain(3)) == 2
    assert len(world.registry.of_domain(4)) == 1
    assert [m for m in world.events.last(10) if "devices_per_domain" in m.text]


@in_clock_loop
async def test_scanner_type_switched_off_closes_and_on_again_takes_up() -> None:
    """Off: closed in order and forgotten, the frontend served until it closes. On: scanned."""
    world = await world_of()
    await world.serving()
    world.scanner.disable("toy")
    await settle()
    assert world.state() == b"5"
    assert "Disconnect" not in world.workers.kinds(TOY)
    world.frontend(6)
    await settle()
    world.workers.says(TOY, m.Disconnected)
    await settle()
    world.workers.exits(TOY, 0)
    await settle()
    assert world.state() == b"6"
    assert TOY not in world.registry
    world.frontend(1)
    await world.scanner.enable("toy")
    await settle()
    assert TOY in world.registry


def declining(
    monkeypatch: pytest.MonkeyPatch, accepts: Callable[[Mapping[str, bytes]], bool]
) -> None:
    """Have the type take only some of the devices in its directory."""
    about = replace(resolve("toy"), accepts=accepts)
    monkeypatch.setitem(RESOLVED, "toy", about)


@in_clock_loop
async def test_scanner_device_that_its_type_declines_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another server of the same directory has it: no worker, no device, no node, no error."""
    declining(monkeypatch, lambda nodes: nodes.get("type") == b"ours")
    world = await world_of()
    world.plug()
    await settle()

    assert len(world.registry) == 0
    assert world.workers.starts == []
    assert world.store.writes == []


@in_clock_loop
async def test_scanner_declined_device_is_looked_at_again_when_its_nodes_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What makes it ours may be written after the rest of the directory."""
    declining(monkeypatch, lambda nodes: nodes.get("type") == b"ours")
    world = await world_of()
    world.plug()
    await settle()
    world.store.put(f"{world.back()}/type", b"ours")
    await settle()

    assert TOY in world.registry


@in_clock_loop
async def test_scanner_manifest_that_fails_to_decide_is_reported_and_harms_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Code of another distribution may raise anything; other devices are taken up."""
    declining(monkeypatch, lambda nodes: bool(nodes["type"]))
    world = await world_of()
    world.plug()
    other = DeviceId("toy", 4, 1)
    world.store.nodes[f"{world.back(other)}/type"] = b"ours"
    world.plug(other)
    await settle()

    assert {device.id for device in world.registry} == {other}
    assert b"accepts: KeyError('type')" in world.store.nodes[ERROR]
