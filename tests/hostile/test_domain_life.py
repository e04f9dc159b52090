# SPDX-License-Identifier: MIT
"""Domains that die at the worst moment, come again at once with the same id, or did not die at all.

Case 12 of the hostile frontend. What one tenant's device held must be gone, and what the next one
with the same number gets must be its own.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shared.embedded.hypercalls import Hypercalls
from shared.xenbus import XenbusState
from shared.xenstore.errors import XenstoreError
from tests.hostile.frontend import offer, publish, say
from tests.hostile.scene import Scene
from tests.process.lab_world import DEADLINE, Guest

STRANGER = 4000
"""A domain xenstored is told of and that has nothing."""


def _attached(guest: Guest) -> None:
    """The toolstack wrote the directories; nobody waited for anything."""


def _waiting(guest: Guest) -> None:
    guest.wait_backend(XenbusState.INIT_WAIT)


def _offering(guest: Guest) -> None:
    publish(guest, offer(guest.domain))


def _connected(guest: Guest) -> None:
    guest.disk.connect(DEADLINE)
    guest.works()


def _refused(guest: Guest) -> None:
    publish(guest, {"ring-ref": b"4000", "event-channel": b"1"})


def _closing(guest: Guest) -> None:
    guest.disk.connect(DEADLINE)
    guest.disk.begin_close()


def _closed(guest: Guest) -> None:
    guest.disk.connect(DEADLINE)
    guest.disk.close(DEADLINE)


def _restarting(guest: Guest) -> None:
    guest.disk.connect(DEADLINE)
    guest.disk.restart()


@pytest.mark.parametrize(
    "phase",
    [_attached, _waiting, _offering, _connected, _refused, _closing, _closed, _restarting],
    ids=lambda phase: phase.__name__[1:],
)
def test_f12_domain_that_dies_leaves_nothing_and_its_id_is_another_guests(
    scene: Scene, phase: Callable[[Guest], None]
) -> None:
    """In each phase; the next domain of that id finds its own disk, behind a new worker."""
    image = scene.world.image()
    with scene.hostile() as dead:
        phase(dead)
        before = scene.lab.device(dead.device)
        old = None if before is None else before.pid
        dead.disk.release()
        with Hypercalls(scene.lab.embedded_dir) as hypercalls:
            hypercalls.destroy_domain(dead.domain.domid)
        with scene.world.guest(image, domid=dead.domain.domid) as reborn:
            assert reborn.device == dead.device
            reborn.disk.connect(DEADLINE)
            assert reborn.disk.read(0, 8) == image.read_bytes()[:4096]
            now = scene.lab.wait_connected(reborn.device)
            assert (now.generation, now.error) == (1, "")
            assert old is None or now.pid != old


def test_f12_release_of_somebody_else_ends_nobody(scene: Scene) -> None:
    """`@releaseDomain` says that some domain went: who lives is served on by the same worker."""
    with scene.hostile() as guest:
        guest.disk.connect(DEADLINE)
        before = scene.lab.wait_connected(guest.device)
        for _ in range(20):
            guest.dom0.introduce(STRANGER)
            guest.dom0.release(STRANGER)
        guest.works()
        now = scene.lab.wait_connected(guest.device)
        assert (now.pid, now.generation, now.error) == (before.pid, 1, "")


def test_f12_guest_cannot_say_that_a_domain_went(scene: Scene) -> None:
    """Neither by the request nor by a node of that name, its own or the special one."""
    victim = int(scene.world.neighbour.device.split("/")[1])
    with scene.hostile() as guest:
        guest.disk.connect(DEADLINE)
        attempts: list[Callable[[], object]] = [
            lambda: guest.xs.release(victim),
            lambda: guest.xs.release(guest.domain.domid),
            lambda: guest.xs.write("@releaseDomain", b"x"),
            lambda: guest.xs.write(f"/local/domain/{victim}/device/vbd/51712/state", b"6"),
            lambda: guest.xs.write(f"{guest.backend}/state", b"6"),
            lambda: guest.xs.rm(guest.backend),
        ]
        for attempt in attempts:
            with pytest.raises(XenstoreError):
                attempt()
        guest.xs.write(f"{guest.frontend}/@releaseDomain", b"x")
        say(guest, XenbusState.CONNECTED)
        guest.works()
        assert scene.lab.wait_connected(guest.device).generation == 1
