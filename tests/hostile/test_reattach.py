# SPDX-License-Identifier: MIT
"""A ring that was forged while nobody held it, for the successor of a killed worker to find.

Case 38b of the hostile frontend. Beside it: 37, workers that are killed under I/O, in
tests/process/test_journal.py and test_supervision_signals.py; 38, supervisors that are, in
test_adoption.py; poison requests in test_journal.py; 39, workers that hang, flood or speak for
others, in test_supervision_stuck.py, test_supervisor_spawner.py and
tests/unit/test_supervisor_link.py.
"""

from __future__ import annotations

import os
import signal

from shared.embedded.guest.ring import REQ_PROD, RSP_PROD
from tests.hostile.scene import Scene
from tests.process.lab_world import DEADLINE, Guest

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
    with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123 — a line of /proc
        return stat.read().rpartition(")")[2].split()[0] == "T"
