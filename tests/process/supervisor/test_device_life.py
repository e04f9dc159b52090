# SPDX-License-Identifier: MIT
"""A device's life on the real stack: plug, unplug, reboot, death, switched off, quarantine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from embedded.toolstack import detach_device, request_close
from shared.control import Clear, Done, Reload
from shared.xenbus import XenbusState
from tests.process.lab_world import CONFIG, DEADLINE, Guest, World, running_world
from worker.devices.block.guest.blkfront import BlockFrontend
from worker.devices.block.guest.disk import DiskSpec
from worker.devices.block.guest.load import LoadConfig
from worker.devices.block.guest.toolstack import attach_disk

RESTART = {"initial": 0.05, "max": 0.2}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A running xenbackd with a neighbour; back-off is short."""
    with running_world({**CONFIG, "restart": RESTART}) as it:
        yield it


@pytest.mark.parametrize("order", [0, 4])
@pytest.mark.parametrize("persistent", [True, False])
def test_s13_life_of_a_32_bit_guest_from_connect_to_close(
    world: World, order: int, persistent: bool
) -> None:
    """The x86_32 layout: connected, verified under load, closed, connected anew, closed."""
    options: dict[str, Any] = {
        "protocol": "x86_32-abi",
        "max_ring_order": order,
        "persistent": persistent,
        "first_index": 2**32 - 40,
    }
    with world.untouched(), world.guest(**options) as guest:
        assert guest.disk.connect(DEADLINE).slots == 32 << order
        load = LoadConfig(rw="randrw", depth=8, total=128 * 4096, verify=True, size=1 << 20)
        assert guest.disk.run_load(load).ok
        guest.disk.reconnect(DEADLINE)
        assert guest.disk.run_load(load).ok
        guest.disk.close(DEADLINE)
        guest.disk.reclaim()
        assert guest.disk.leaked_pages == 0


def test_worker_process_is_named_after_its_device(world: World) -> None:
    """What ps shows of a worker is its device's name, and nothing of the fork server's."""
    with world.untouched(), world.guest() as guest:
        guest.disk.connect(DEADLINE)
        pid = world.lab.wait_connected(guest.device).pid

        title = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0 ").decode()
    assert title == f"xenbackd: {guest.device}"


def test_s08_life_hot_unplug_leaves_the_other_disk_of_the_guest_alone(world: World) -> None:
    """A second disk is plugged in, used and unplugged; the first one's worker never notices."""
    with world.untouched(), world.guest() as guest:
        guest.disk.connect(DEADLINE)
        first = world.lab.wait_connected(guest.device)
        spec = DiskSpec(path=str(world.image()), vdev="xvdb")
        second = BlockFrontend(guest.domain, guest.xs, spec.devid)
        attach_disk(guest.dom0, guest.domain.domid, spec)
        other = guest._replace(disk=second)
        second.connect(DEADLINE)
        other.works()
        guest.works()

        request_close(guest.dom0, other.backend)
        other.wait_backend(XenbusState.CLOSING)
        other.works()  # mounted disks need their last writes
        second.advance()
        assert second.state is XenbusState.CLOSED
        assert detach_device(guest.dom0, guest.domain.domid, "vbd", spec.devid, DEADLINE)
        world.lab.wait(lambda: world.lab.device(other.device) is None, DEADLINE, "forgotten")
        second.advance()
        assert second.gone
        second.reclaim()
        assert second.leaked_pages == 0
        second.release()
        guest.works()
        now = world.lab.wait_connected(guest.device)
        assert (now.pid, now.generation) == (first.pid, 1)


def test_s08_life_domain_that_dies_is_forgotten_and_its_id_is_another_guests(
    world: World,
) -> None:
    """No error, nothing kept; the next domain of that id has its own disk and a new worker."""
    with world.untouched():
        with world.guest() as dead:
            dead.disk.connect(DEADLINE)
            dead.works()
            worker = world.lab.wait_connected(dead.device).pid
        image = world.image()
        # At once: the supervisor may see the old one's end and the new one's birth together.
        with world.guest(image, domid=dead.domain.domid) as reborn:
            assert reborn.device == dead.device
            reborn.disk.connect(DEADLINE)
            assert reborn.disk.read(0, 8) == image.read_bytes()[:4096]
            now = world.lab.wait_connected(reborn.device)
            assert (now.generation, now.error) == (1, "")
            assert now.pid != worker
        world.lab.wait(lambda: world.lab.device(dead.device) is None, DEADLINE, "forgotten")


@pytest.mark.parametrize("orderly", [True, False], ids=["orderly", "crash"])
def test_s16_life_guest_reboots_again_and_again(world: World, orderly: bool) -> None:
    """Each kernel connects anew and finds what the one before it wrote."""
    with world.untouched(), world.guest() as guest:
        guest.disk.connect(DEADLINE)
        for boot in range(3):
            data = boot.to_bytes(8, "little") * 512
            guest.disk.write(256, data)
            guest.disk.flush()
            if orderly:
                guest.disk.close(DEADLINE)
            guest.disk.restart()
            guest.disk.connect(DEADLINE)
            assert guest.disk.read(256, 8) == data
            # What the kernel before had shared; the backend let go of it before InitWait.
            guest.disk.reclaim()
            assert guest.disk.leaked_pages == 0
        now = world.lab.wait_connected(guest.device)
        assert (now.error, now.failures) == ("", 0)


def test_life_type_switched_off_closes_and_switched_on_serves(world: World) -> None:
    """`reload` closes the devices of one type in order, and no other; on again, they connect."""
    on = {**CONFIG, "restart": RESTART}
    off = {**on, "types": {"vbd": {"handler": "block"}}}
    with world.untouched(), world.guest(kind="qdisk") as guest, world.guest() as other_type:
        guest.disk.connect(DEADLINE)
        other_type.disk.connect(DEADLINE)
        before = world.lab.wait_connected(other_type.device)
        try:
            world.lab.write_config(off)
            world.ask(Reload(), Done)
            guest.wait_backend(XenbusState.CLOSING)
            guest.works()
            guest.disk.advance()
            guest.wait_backend(XenbusState.CLOSED)
            world.lab.wait(lambda: world.lab.device(guest.device) is None, DEADLINE, "forgotten")
        finally:
            world.lab.write_config(on)
            world.ask(Reload(), Done)
        guest.disk.restart()
        guest.disk.connect(DEADLINE)
        guest.works()
        other_type.works()
        now = world.lab.wait_connected(other_type.device)
        assert (now.pid, now.generation) == (before.pid, 1)


def test_life_fifth_failure_is_quarantine_until_the_operator_clears_it(world: World) -> None:
    """Killed five times: held, said, the guest only waits; `clear` serves it again."""
    with world.untouched(), world.guest() as guest:
        guest.disk.connect(DEADLINE)
        guest.works()
        for generation in range(1, 6):
            _kill(world, guest, generation)
        held = world.lab.wait_device(guest.device, lambda now: now.hold == "quarantined")
        assert (held.pid, held.backend, held.failures) == (None, "Connected", 5)
        assert any("quarantined" in text for text in world.events_of(guest))
        assert any("quarantined" in line for line in world.log_of(guest))
        world.wait_error(guest, "killed by SIGKILL", errno=14)

        with pytest.raises(Exception, match="only `xenbackd clear` ends"):
            world.restart(guest)
        world.ask(Clear(device=guest.device), Done)
        guest.works()
        now = world.lab.wait_connected(guest.device)
        assert (now.hold, now.failures, now.generation) == ("", 0, 6)


def _kill(world: World, guest: Guest, generation: int) -> None:
    serving = world.lab.wait_device(
        guest.device, lambda now: now.generation == generation and now.phase == "serving"
    )
    assert serving.pid is not None
    os.kill(serving.pid, signal.SIGKILL)
