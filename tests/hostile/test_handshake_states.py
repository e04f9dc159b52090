# SPDX-License-Identifier: MIT
"""Frontend states in any order, nodes that change under a running ring, directories that vanish.

Cases 1, 2, 4, 9 and 10 of the hostile frontend. The backend looks at levels and not at edges, so
whatever a frontend went through, what counts is where it stands in the end: every test ends with
the ring's page back in the guest's hands, or with a disk that works.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable

import pytest

from embedded.toolstack import device_nodes
from shared.xenbus import XenbusState
from tests.hostile.frontend import Nodes, give_back, offer, publish, say
from tests.hostile.scene import Scene
from tests.process.lab_world import DEADLINE, Guest
from worker.devices.block.guest.disk import DiskSpec
from worker.devices.block.guest.toolstack import new_disk

NO_STATES = (b"", b"abc", b"-1", b"-3", b"99", b"9" * 20, b"4\0junk", b" 4", b"4" * 2000)
REPEATS = 2_000
"""In one go; `bench.hostile` does it for as long as one likes."""
STEPS = 300


def connected(guest: Guest) -> Nodes:
    """Offer a ring and be connected with it, by hand."""
    nodes = offer(guest.domain)
    publish(guest, nodes)
    guest.wait_backend(XenbusState.CONNECTED)
    say(guest, XenbusState.CONNECTED)
    return nodes


def closed(guest: Guest, nodes: Nodes) -> None:
    """Whatever the frontend did before: it closes, and has its ring back."""
    say(guest, XenbusState.CLOSED)
    guest.wait_backend(XenbusState.CLOSED)
    give_back(guest.domain, nodes)


def test_f01_state_that_is_none_is_nobody_there(scene: Scene) -> None:
    """While the backend waits it goes on waiting; a ring in use is let go, and may come again."""
    with scene.hostile() as guest:
        for state in NO_STATES:
            guest.wait_backend(XenbusState.INIT_WAIT)
            say(guest, state)
            scene.lab.wait_device(guest.device, lambda now: now.frontend == "INVALID")
            assert guest.dom0.read(f"{guest.backend}/state") == b"2"
            nodes = connected(guest)
            scene.lab.wait_connected(guest.device)
            say(guest, state)
            guest.wait_backend(XenbusState.CLOSED)
            give_back(guest.domain, nodes)
            say(guest, XenbusState.INITIALISING)
        scene.starts_anew(guest)
        assert scene.lab.wait_connected(guest.device).failures == 0


def test_f01_state_missing_or_a_directory_is_nobody_there(scene: Scene) -> None:
    """A node that is not there, and one that is the parent of others."""
    with scene.hostile() as guest:
        node = f"{guest.frontend}/state"
        for child in ("", "/4", "/state/state"):
            nodes = connected(guest)
            guest.xs.rm(node)
            if child:
                guest.xs.write(node + child, b"4")
            guest.wait_backend(XenbusState.CLOSED)
            give_back(guest.domain, nodes)
            say(guest, XenbusState.INITIALISING)
        guest.wait_backend(XenbusState.INIT_WAIT)
        scene.starts_anew(guest)


@pytest.mark.parametrize(
    "walk",
    ["4", "41", "43", "42", "4564", "4654", "464", "47484", "413134", "40", "4040"],
)
def test_f02_states_skipped_and_reversed_end_where_the_frontend_stands(
    scene: Scene, walk: str
) -> None:
    """From Connected through any steps to Closed: nothing of the ring is kept."""
    with scene.hostile() as guest:
        nodes = connected(guest)
        for state in walk:
            say(guest, state)
        closed(guest, nodes)
        scene.starts_anew(guest)


def test_f02_connected_without_an_offer_is_refused(scene: Scene) -> None:
    """From Initialising straight to Connected, with nothing to connect to."""
    with scene.hostile() as guest:
        guest.wait_backend(XenbusState.INIT_WAIT)
        say(guest, XenbusState.CONNECTED)
        scene.refused(guest, "frontend node: ring-ref: missing")
        scene.starts_anew(guest)


def test_f02_states_at_random_as_fast_as_they_go_are_survived(scene: Scene) -> None:
    """Hundreds of states without waiting for anything, with an offer that stands all the time."""
    chance = random.Random(36)
    states = [b"0", b"1", b"1", b"2", b"3", b"3", b"4", b"4", b"5", b"6", b"7", b"8", b"x"]
    with scene.hostile() as guest:
        nodes = offer(guest.domain)
        publish(guest, nodes)
        for _ in range(STEPS):
            say(guest, chance.choice(states))
        closed(guest, nodes)
        scene.starts_anew(guest)


def test_f02_same_state_again_and_again_changes_nothing(scene: Scene) -> None:
    """Rewritten thousands of times (XSA-349): the same worker serves on, and nothing grows."""
    with scene.hostile() as guest:
        guest.disk.connect(DEADLINE)
        before = scene.lab.wait_connected(guest.device)
        for _ in range(REPEATS):
            say(guest, XenbusState.CONNECTED)
        guest.works()
        now = scene.lab.wait_connected(guest.device)
        assert (now.pid, now.generation, now.error) == (before.pid, 1, "")


FORGED: dict[str, bytes] = {
    "ring-ref": b"4000",
    "ring-ref0": b"4001",
    "ring-page-order": b"4",
    "event-channel": b"900",
    "protocol": b"x86_32-abi",
    "multi-queue-num-queues": b"9",
    "feature-persistent": b"7",
}


def test_f04_nodes_changed_under_a_running_ring_are_ignored(scene: Scene) -> None:
    """References, port and layout count when the ring is attached, and not before the next time."""
    with scene.hostile() as guest:
        guest.disk.connect(DEADLINE)
        before = scene.lab.wait_connected(guest.device)
        for _ in range(3):
            guest.xs.write_many({f"{guest.frontend}/{name}": FORGED[name] for name in FORGED})
            guest.works()
        now = scene.lab.wait_connected(guest.device)
        assert (now.pid, now.generation, now.error) == (before.pid, 1, "")


def test_f04_nodes_changed_before_a_successor_attaches_close_the_device(scene: Scene) -> None:
    """A worker that was killed has a successor, who reads them anew: the guest's fault."""
    with scene.hostile() as guest:
        guest.disk.connect(DEADLINE)
        worker = scene.lab.wait_connected(guest.device).pid
        assert worker is not None
        guest.xs.write_many({f"{guest.frontend}/{name}": FORGED[name] for name in FORGED})
        os.kill(worker, signal.SIGKILL)
        scene.refused(guest, "frontend node")
        for name in FORGED:
            guest.xs.rm(f"{guest.frontend}/{name}")
        scene.starts_anew(guest)


def test_f09_backend_nodes_in_the_frontends_directory_change_nothing(scene: Scene) -> None:
    """They point at the innocent guest's device, and at nonsense: nobody follows them."""
    victim = f"/local/domain/0/backend/{scene.world.neighbour.device}"
    with scene.hostile() as guest:
        guest.disk.connect(DEADLINE)
        before = scene.lab.wait_connected(guest.device)
        honest = guest.xs.read(f"{guest.frontend}/backend")
        for backend, domid in ((victim, b"0"), (victim, b"1"), ("/", b"-1"), ("", b"x" * 2000)):
            guest.xs.write(f"{guest.frontend}/backend", backend)
            guest.xs.write(f"{guest.frontend}/backend-id", domid)
            say(guest, XenbusState.CONNECTED)
            guest.works()
        now = scene.lab.wait_connected(guest.device)
        assert (now.pid, now.generation, now.error) == (before.pid, 1, "")
        say(guest, XenbusState.CLOSED)
        guest.wait_backend(XenbusState.CLOSED)
        scene.world.neighbour.works_on()
        guest.xs.write(f"{guest.frontend}/backend", honest)
        guest.xs.write(f"{guest.frontend}/backend-id", b"0")
        scene.starts_anew(guest)


def _waiting(guest: Guest) -> Nodes:
    guest.wait_backend(XenbusState.INIT_WAIT)
    return offer(guest.domain)


def _offering(guest: Guest) -> Nodes:
    nodes = offer(guest.domain)
    publish(guest, nodes)
    return nodes


def _closing(guest: Guest) -> Nodes:
    nodes = connected(guest)
    say(guest, XenbusState.CLOSING)
    return nodes


@pytest.mark.parametrize("whole", [True, False], ids=["directory", "state"])
@pytest.mark.parametrize("phase", [_waiting, _offering, connected, _closing])
def test_f10_frontend_that_vanishes_is_closed_and_may_come_again(
    scene: Scene, phase: Callable[[Guest], Nodes], whole: bool
) -> None:
    """In each phase; what was mapped is given back, and the directory made anew is served."""
    with scene.hostile() as guest:
        nodes = phase(guest)
        guest.xs.rm(guest.frontend if whole else f"{guest.frontend}/state")
        scene.lab.wait_device(
            guest.device,
            lambda now: now.frontend == "Unknown" and now.backend in ("InitWait", "Closed"),
        )
        scene.lab.wait(
            lambda: guest.domain.end_access(int(nodes["ring-ref"])), DEADLINE, "the ring's page"
        )
        _made_anew(guest)
        scene.starts_anew(guest)


def _made_anew(guest: Guest) -> None:
    """What the toolstack wrote, once more: a guest cannot make its own directory."""
    spec = DiskSpec(path=guest.image, vdev="xvda")
    _, frontend = device_nodes(guest.domain.domid, new_disk(spec))

    def write(tx: int) -> None:
        guest.dom0.mkdir(guest.frontend, tx)
        guest.dom0.set_perms(guest.frontend, [f"n{guest.domain.domid}", "r0"], tx)
        guest.dom0.write_many({f"{guest.frontend}/{n}": v for n, v in frontend.items()}, tx)

    guest.dom0.transact(write)
