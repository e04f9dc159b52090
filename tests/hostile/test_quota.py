# SPDX-License-Identifier: MIT
"""Reads that are not allowed any more, and writes that are refused: ENOSPC, EACCES.

Case 11 of the hostile frontend. In dom0 nobody's permissions and quotas bind us (case 11 of
test_life_cycle.py); in a driver domain a guest can take away our right to read its nodes, and our
own quota is one for all our devices.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from embedded.toolstack import detach_device
from shared.xenbus import XenbusState
from tests.hostile.driver import DriverLab
from tests.hostile.frontend import fill, give_back, offer, publish, say
from tests.hostile.scene import SCENE_CONFIG, Scene, scene_in
from tests.process.lab_world import DEADLINE, Guest
from worker.devices.block.guest.blkfront import BlockFrontend
from worker.devices.block.guest.disk import DiskSpec
from worker.devices.block.guest.toolstack import attach_disk


@pytest.fixture(scope="module")
def driver() -> Iterator[Scene]:
    """The scene in a driver domain."""
    with scene_in(DriverLab(SCENE_CONFIG)) as it:
        yield it


def test_f11_state_that_may_not_be_read_any_more_is_a_closed_frontend(driver: Scene) -> None:
    """The guest takes our right away while connected: its ring is let go, and it may come again."""
    with driver.hostile() as guest:
        nodes = offer_to(guest)
        publish(guest, nodes)
        guest.wait_backend(XenbusState.CONNECTED)
        say(guest, XenbusState.CONNECTED)
        _allow(guest, "/state", read=False)
        guest.wait_backend(XenbusState.CLOSED)
        give_back(guest.domain, nodes)
        _allow(guest, "/state", read=True)
        driver.starts_anew(guest)


def test_f11_node_that_may_not_be_read_is_missing(driver: Scene) -> None:
    """A ring reference for nobody's eyes closes the device, as if it were not there."""
    with driver.hostile() as guest:
        nodes = offer_to(guest)
        guest.wait_backend(XenbusState.INIT_WAIT)
        guest.xs.write(f"{guest.frontend}/ring-ref", b"8")
        _allow(guest, "/ring-ref", read=False)
        publish(guest, nodes)
        driver.refused(guest, "frontend node: ring-ref: missing")
        give_back(guest.domain, nodes)
        guest.xs.rm(f"{guest.frontend}/ring-ref")
        driver.starts_anew(guest)


def test_f11_write_without_room_waits_and_disturbs_nobody(driver: Scene) -> None:
    """Our own quota is used up: the device says why, others work, and room brings it up."""
    assert isinstance(driver.lab, DriverLab)
    with driver.hostile() as guest, driver.lab.own_xenstore() as own:
        guest.disk.connect(DEADLINE)
        fill(own)
        spec = DiskSpec(path=str(driver.world.image()), vdev="xvdb")
        attach_disk(guest.dom0, guest.domain.domid, spec, guest.backend_domid)
        second = guest._replace(disk=BlockFrontend(guest.domain, guest.xs, spec.devid))
        driver.lab.wait_device(second.device, lambda now: "ENOSPC" in now.error)
        assert guest.dom0.read(f"{second.backend}/state") == b"1"
        guest.works()
        driver.world.neighbour.works_on()
        own.rm("data/fill")
        second.disk.connect(DEADLINE)
        second.works()
        assert detach_device(guest.dom0, guest.domain.domid, "vbd", spec.devid, 0.0) is False
        driver.lab.wait(lambda: driver.lab.device(second.device) is None, DEADLINE, "forgotten")
        second.disk.release()


def test_f11_write_that_is_not_allowed_waits_and_disturbs_nobody(driver: Scene) -> None:
    """The state is not ours to write for a while: it stays, with the reason, and then goes on."""
    with driver.hostile() as guest:
        guest.disk.connect(DEADLINE)
        guest.disk.close(DEADLINE)
        state = f"{guest.backend}/state"
        perms = guest.dom0.get_perms(state)
        guest.dom0.set_perms(state, ["n0", f"r{guest.backend_domid}"])
        say(guest, XenbusState.INITIALISING)
        driver.lab.wait_device(guest.device, lambda now: "EACCES" in now.error)
        assert guest.dom0.read(state) == b"6"
        driver.world.neighbour.works_on()
        guest.dom0.set_perms(state, perms)
        guest.wait_backend(XenbusState.INIT_WAIT)
        driver.starts_anew(guest)


def offer_to(guest: Guest) -> dict[str, bytes]:
    """An offer to the domain that serves."""
    return offer(guest.domain, guest.backend_domid)


def _allow(guest: Guest, node: str, *, read: bool) -> None:
    """Whether the domain that serves may read a node."""
    access = "r" if read else "n"
    guest.xs.set_perms(
        guest.frontend + node, [f"n{guest.domain.domid}", f"{access}{guest.backend_domid}"]
    )
