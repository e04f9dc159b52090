# SPDX-License-Identifier: MIT
"""A supervisor in a domain that is not the toolstack's."""

from __future__ import annotations

from shared import messages as m
from shared.xenstore.errors import AccessDeniedError
from supervisor.device.removal import AFTER
from tests.fakes.clock_loop import in_clock_loop, pass_time, settle
from tests.fakes.supervisor_world import OWN, TOY, FakeStore, World


class UnprivilegedStore(FakeStore):
    """xenstored tells only dom0 which domains there are, and libxl keeps what it made above a
    device's directory."""

    async def is_domain_introduced(self, domid: int) -> bool:
        raise AccessDeniedError("is domain introduced", str(domid), "EACCES")

    async def rm(self, path: str, tx: int = 0) -> None:
        if path == f"{OWN}/backend/toy/3":
            raise AccessDeniedError("rm", path, "EACCES")
        await super().rm(path, tx)


async def driver_domain() -> World:
    """A device that was served, closed and unplugged by the toolstack."""
    world = World(store=UnprivilegedStore())
    world.surroundings.own_domid = 1
    await world.start()
    await world.serving()
    world.store.put(f"{world.back()}/online", b"0")
    world.store.put(f"{world.back()}/state", b"5")
    world.frontend(6)
    await settle()
    world.workers.says(TOY, m.Disconnected)
    await settle()
    world.workers.exits(TOY, 0)
    await settle()
    assert world.state() == b"6"
    return world


@in_clock_loop
async def test_driver_domain_serves_without_the_right_to_ask_for_domains() -> None:
    """What dom0 alone may ask is not needed to serve a device."""
    world = World(store=UnprivilegedStore())
    await world.start()
    await world.serving()
    assert world.state() == b"4"


@in_clock_loop
async def test_driver_domain_unplugged_device_is_removed_after_the_toolstack_saw_it() -> None:
    """libxl leaves the directory to us: Closed first, then it goes."""
    world = await driver_domain()
    await pass_time(AFTER - 0.5)
    assert world.state() == b"6"
    await pass_time(1)
    assert not [x for x in world.store.nodes if x.startswith(world.back())]
    assert TOY not in world.registry


@in_clock_loop
async def test_driver_domain_device_plugged_again_is_not_removed() -> None:
    """A new device in the same place within the pause is served, not removed."""
    world = await driver_domain()
    world.plug()
    await settle()
    await pass_time(2 * AFTER)
    assert world.state() == b"1"
    assert TOY in world.registry


@in_clock_loop
async def test_driver_domain_removal_that_fails_is_tried_again() -> None:
    """xenstored may be away for a moment; the toolstack waits ten seconds for the directory."""
    world = await driver_domain()
    world.store.lost = True
    await pass_time(AFTER + 0.5)
    assert world.state() == b"6"
    world.store.lost = False
    world.device().look_again()
    await pass_time(3 * AFTER)
    assert not [x for x in world.store.nodes if x.startswith(world.back())]


@in_clock_loop
async def test_dom0_unplugged_device_is_left_to_the_toolstack() -> None:
    """In the toolstack's own domain the directory is not ours."""
    world = World()
    await world.start()
    await world.serving()
    world.store.put(f"{world.back()}/online", b"0")
    world.frontend(6)
    await settle()
    world.workers.says(TOY, m.Disconnected)
    await settle()
    world.workers.exits(TOY, 0)
    await pass_time(10 * AFTER)
    assert world.state() == b"6"
