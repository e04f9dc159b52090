# SPDX-License-Identifier: MIT
"""A guest that does what it may, only without end: rewrite nodes, connect, close, fail, ring.

Cases 2 (XSA-349, XSA-350), 36 and 40 of the hostile frontend, in the short form; `bench.hostile`
has the long one, and the attach time of others under a flood as a ratio. Nothing here measures
time: what is asserted is that others are served, and that nothing grows with the rounds.
"""

from __future__ import annotations

import struct

from bench.flood import Cycles, Flood
from bench.held import resident
from shared.xenbus import XenbusState
from tests.hostile.frontend import give_back, offer, publish, say
from tests.hostile.scene import MEMORY_MAX, Scene
from tests.process.lab_world import DEADLINE
from worker.devices.block.guest.ring import RSP_PROD

OTHERS, OTHERS_MAX = 3, 60
"""Guests that come and go during a flood; more where it takes long to become one."""
CYCLES = 100
TOGGLES = 900
FAULTS = 20
BAD_REQUESTS = 20_000
LINES_MAX = 120
"""Lines of the log about one device, from its first to its last: some bursts of some ten each."""
OPERATION_NOBODY_KNOWS = 255


def test_f02_watch_flood_keeps_nobody_from_attaching(scene: Scene) -> None:
    """While one guest rewrites its nodes without end (XSA-349) others come, work and go."""
    assert scene.lab.supervisor is not None
    supervisor = scene.lab.supervisor.pid
    before = resident(supervisor)
    with scene.hostile() as guest:
        guest.disk.connect(DEADLINE)
        worker = scene.lab.wait_connected(guest.device)
        socket = scene.lab.embedded_dir / "xenstored" / "domain" / str(guest.domain.domid)
        with Flood(socket, f"{guest.frontend}/state") as flood:
            others = 0
            while others < OTHERS or not flood.enough:
                with scene.world.guest() as other:
                    other.disk.connect(DEADLINE)
                    other.works()
                others += 1
                assert others < OTHERS_MAX, "there is hardly a flood"
            scene.world.neighbour.works_on()
            assert resident(supervisor) - before <= MEMORY_MAX
        assert flood.writes > 1000
        guest.works()
        now = scene.lab.wait_connected(guest.device)
        assert (now.pid, now.generation, now.error) == (worker.pid, 1, "")


def test_f36_connecting_and_closing_again_and_again_leaves_nothing(scene: Scene) -> None:
    """After many cycles all is as after some: descriptors, mappings, ports, memory, nodes."""
    with scene.hostile() as guest:
        guest.wait_backend(XenbusState.INIT_WAIT)
        cycles = Cycles(guest.domain, guest.xs, guest.frontend, guest.backend, DEADLINE)
        cycles.run(20)
        before, status = scene.world.held(), scene.lab.device(guest.device)
        assert status is not None
        assert status.pid is not None
        there, size = scene.books().nodes, resident(status.pid)
        cycles.run(CYCLES)
        scene.holds_no_more_than(before)
        assert scene.books().nodes == there
        assert resident(status.pid) - size <= MEMORY_MAX // 4
        now = scene.lab.device(guest.device)
        assert now is not None
        assert (now.pid, now.generation, now.failures) == (status.pid, 1, 0)
        assert guest.domain.end_access(cycles.ref)


def test_f02_toggling_without_waiting_for_the_backend_leaves_nothing(scene: Scene) -> None:
    """Initialised, Closing, Initialised … (XSA-350): a ring is let go before it is taken again."""
    with scene.hostile() as guest:
        nodes = offer(guest.domain)
        publish(guest, nodes)
        for _ in range(TOGGLES // 3):
            for state in (XenbusState.CLOSING, XenbusState.INITIALISED, XenbusState.CLOSED):
                say(guest, state)
        guest.wait_backend(XenbusState.CLOSED)
        give_back(guest.domain, nodes)
        scene.starts_anew(guest)
        assert scene.lab.wait_connected(guest.device).generation == 1


def test_f40_faults_and_toggles_without_end_fill_no_log(scene: Scene) -> None:
    """Each closes the device; the log is bounded, and says how many lines it has not."""
    with scene.hostile() as guest:
        for _ in range(FAULTS):
            publish(guest, {"ring-ref": b"4000", "event-channel": b"1"})
            guest.wait_backend(XenbusState.CLOSED)
            say(guest, XenbusState.INITIALISING)
        events = scene.world.events_of(guest)
    lines = scene.world.log_of(guest)
    assert len(lines) <= LINES_MAX
    assert len(events) <= LINES_MAX
    assert sum("suppressed" in line for line in lines) > 0


def test_f36_bad_requests_without_end_are_answered_and_kept_nowhere(scene: Scene) -> None:
    """Tens of thousands of them: each has its error, nothing is logged, mapped or allocated."""
    with scene.hostile(persistent=False) as guest:
        guest.disk.connect(DEADLINE)
        guest.works()
        before, log = scene.world.held(), len(scene.world.log_of(guest))
        worker = scene.lab.wait_connected(guest.device)
        assert worker.pid is not None
        size, ring = resident(worker.pid), guest.disk.ring
        assert ring is not None
        first = ring.index(RSP_PROD)
        request = struct.pack("<BBHxxxxQQ", OPERATION_NOBODY_KNOWS, 1, 0, 2**64 - 1, 0)
        for sent in range(BAD_REQUESTS):
            ring.raw_submit(request)
            while sent - (ring.index(RSP_PROD) - first) % 2**32 >= ring.slots - 1:
                assert ring.raw_wait(DEADLINE)
                while ring.raw_response() is not None:
                    pass
        scene.lab.wait_device(
            guest.device, lambda now: now.counters.get("bad_operation") == BAD_REQUESTS
        )
        scene.holds_no_more_than(before)
        assert len(scene.world.log_of(guest)) == log
        assert resident(worker.pid) - size <= MEMORY_MAX // 4
        assert scene.lab.wait_connected(guest.device).pid == worker.pid
