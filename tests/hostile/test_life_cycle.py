# SPDX-License-Identifier: MIT
"""Domains that die at the worst moment and come again at once, and rings forged for a successor.

Cases 11 (in dom0; test_quota.py has the driver domain), 12 and 38b of the hostile frontend. Beside
them: 37, workers that are killed under I/O, in tests/process/devices/block/test_journal.py and
test_supervision_signals.py; 38, supervisors that are, in test_adoption.py; poison requests in
test_journal.py; 39, workers that hang, flood or speak for others, in test_supervision_stuck.py,
test_supervisor_spawner.py and tests/unit/supervisor/workers/test_link.py.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from embedded.hypercalls import Hypercalls
from shared.xenbus import XenbusState
from shared.xenstore.errors import XenstoreError
from tests.hostile.frontend import fill, offer, publish, say
from tests.hostile.scene import Scene
from tests.process.lab_world import DEADLINE, Guest
from worker.devices.block.guest.ring import REQ_PROD, RSP_PROD

STRANGER = 4000
"""A domain xenstored is told of and that has nothing."""

FORGED = [
    # index, distance from where rsp_prod stands
    (REQ_PROD, 33),
    (REQ_PROD, 2**31),
    (REQ_PROD, 2**32 - 1),
    (RSP_PROD, 1),
    (RSP_PROD, 33),
    (RSP_PROD, 2**31),
    (RSP_PROD, 2**32 - 1),
    (RSP_PROD, 2**32 - 3),
]


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


def test_f11_guest_without_quota_that_denies_us_everything_is_served_by_dom0(scene: Scene) -> None:
    """What we write is ours and not the guest's, and dom0 may read whatever stands there."""
    with scene.hostile() as guest:
        guest.disk.connect(DEADLINE)
        fill(guest.xs)
        for name in ("", *(f"/{name}" for name in guest.xs.directory(guest.frontend))):
            guest.xs.set_perms(guest.frontend + name, [f"n{guest.domain.domid}"])
        guest.works()
        guest.disk.reconnect(DEADLINE)
        guest.works()
        assert scene.lab.wait_connected(guest.device).generation == 1


def forge(scene: Scene, guest: Guest, index: int, distance: int) -> None:
    """Stop the worker, write the index, and kill it: only the successor sees what was written."""
    ring = guest.disk.ring
    worker = scene.lab.wait_connected(guest.device).pid
    assert ring is not None
    assert worker is not None
    os.kill(worker, signal.SIGSTOP)
    scene.lab.wait(lambda: _stopped(worker), DEADLINE, "the worker to be stopped", 0.001)
    ring.poke(index, ring.index(RSP_PROD) + distance)
    os.kill(worker, signal.SIGKILL)


def test_f38b_indices_forged_before_a_successor_attaches_close_the_device(scene: Scene) -> None:
    """Producers ahead, behind, moved back over answered requests: nothing is run twice."""
    with scene.hostile(max_ring_order=0) as guest:
        for index, distance in FORGED:
            guest.disk.connect(DEADLINE)
            for _ in range(5):
                guest.works()
            scene.forget_error(guest)
            forge(scene, guest, index, distance)
            said = "makes no sense" if index == REQ_PROD else "rsp_prod"
            scene.refused(guest, said)
            guest.disk.advance()
            assert guest.disk.leaked_pages == 0
            guest.disk.restart()
        scene.starts_anew(guest)


def _stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
