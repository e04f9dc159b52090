# SPDX-License-Identifier: MIT
"""What the supervisor does for devices unlike a disk, in a world without process or time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from shared import device_types
from shared import messages as m
from shared.device_types import Traits
from shared.errors import Blame
from shared.lifecycle_types import HotplugStatus, WorkerPhase
from shared.xenbus import XenbusState
from tests.fakes.clock_loop import in_clock_loop, settle
from tests.fakes.supervisor_world import ERROR, TOY, World, world_of
from tests.fakes.toy.about import TYPE


async def world_with(monkeypatch: pytest.MonkeyPatch, **manifest: object) -> World:
    """A world whose toys have this manifest, one plugged in and as far as its worker can go."""
    changed = replace(TYPE, **manifest)  # type: ignore[arg-type]
    monkeypatch.setitem(device_types.RESOLVED, "toy", changed)
    world = await world_of()
    world.plug()
    await settle()
    return world


@in_clock_loop
async def test_hotplug_script_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """We write nothing in its place; Connected follows its word, and its error is reported."""
    world = await world_with(monkeypatch, traits=Traits(hotplug="script"))
    await world.ready()
    world.frontend(3)
    await settle()
    world.workers.says(TOY, m.Attached, nodes={})
    await settle()
    assert world.state() == b"2"
    assert f"{world.back()}/hotplug-status" not in world.store.nodes

    world.store.put(f"{world.back()}/hotplug-error", b"no bridge")
    world.store.put(f"{world.back()}/hotplug-status", b"error")
    await settle()
    assert HotplugStatus.ERROR is world.device().lifecycle.hotplug
    assert "no bridge" in world.status().error
    assert b"no bridge" in world.store.nodes[ERROR]
    assert world.state() == b"2"

    world.store.put(f"{world.back()}/hotplug-status", b"connected")
    await settle()
    assert world.state() == b"4"


@pytest.mark.parametrize("hotplug", ["script", "none"])
@in_clock_loop
async def test_hotplug_nodes_of_another_are_left_alone_when_the_device_fails(
    monkeypatch: pytest.MonkeyPatch, hotplug: str
) -> None:
    """A script that reads our error there would take it for its own."""
    world = await world_with(monkeypatch, traits=Traits(hotplug=hotplug))  # type: ignore[arg-type]
    world.workers.says(TOY, m.Hello)
    await settle()
    world.workers.says(TOY, m.Failed, stage="init", blame=Blame.OPERATOR, text="no such bridge")
    await settle()
    assert "no such bridge" in world.status().error
    assert f"{world.back()}/hotplug-status" not in world.store.nodes


@in_clock_loop
async def test_reconfiguration_that_a_toolstack_asks_for_is_not_overwritten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its 7 meets a write of ours: nothing is written, and the frontend is waited for."""
    world = await world_with(monkeypatch, traits=Traits(reconfigures=True))
    await world.ready()
    world.frontend(3)
    await settle()
    world.workers.says(TOY, m.Attached, nodes={})
    await settle()
    world.frontend(4)
    await settle()
    world.frontend(7)
    await settle()
    world.workers.says(TOY, m.Disconnected)
    await settle()
    world.workers.says(TOY, m.Initialised, nodes={})
    await settle()
    world.workers.says(TOY, m.Attached, nodes={})
    await settle()
    assert world.state() == b"8"
    world.store.nodes[f"{world.back()}/state"] = b"7"  # its watch event is still to come
    world.frontend(4)
    await settle()
    assert world.state() == b"7"
    assert XenbusState.RECONFIGURING is world.device().lifecycle.backend


@in_clock_loop
async def test_nodes_of_a_device_decide_how_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """One type may serve devices that differ, as consoles do."""

    def traits_of(nodes: Mapping[str, bytes]) -> Traits:
        return Traits(ignore_frontend_state=nodes["params"] == b"aio:/img")

    world = await world_with(monkeypatch, traits_of=traits_of)
    await world.ready()
    assert WorkerPhase.ATTACHING is world.device().lifecycle.worker


@in_clock_loop
async def test_nodes_that_a_type_cannot_decide_by_are_a_set_up_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its code may raise anything; the device is not taken up, and the operator is told."""

    def traits_of(nodes: Mapping[str, bytes]) -> Traits:
        raise KeyError("output")

    world = await world_with(monkeypatch, traits_of=traits_of)
    assert world.registry.get(TOY) is None
    assert b"type toy: traits_of: KeyError('output')" in world.store.nodes[ERROR]
