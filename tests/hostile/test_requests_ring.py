# SPDX-License-Identifier: MIT
"""Ring indices and events that make no sense, or come without end (F13 to F15).

What one impossible producer does is in test_ring.py of the unit tests, over a whole xenbackd in
test_bad_input_requests.py. Here: every distance, with and without a journal, in every
phase; that everything is given back; and that a storm costs no more than its own events.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.fakes.block.blk import LAYOUT_64, OKAY, READ, Bench, FakeDisk, bench
from tests.fakes.block.blkflip import flip_bench
from tests.fakes.hv import PORT, FakeHypervisor
from worker.devices.block.native._block import lib

REQ_PROD, REQ_EVENT, RSP_PROD, RSP_EVENT = 0, 4, 8, 12
PAGE0 = [(100, 0, 7)]
SLOTS = 32
TOP = 1 << 32
STORM = 100_000
STARTS = pytest.mark.parametrize("start", [0, TOP - 7, 1 << 31], ids=["0", "wrap", "half"])
ORDER = pytest.mark.parametrize("journal", [False, True], ids=["ring", "journal"])


def attach(it: Bench, journal: bool, journal_file: int, **changes: Any) -> int:
    """Attach with persistent grants, with or without a journal."""
    fd = journal_file if journal else -1
    return it.attach(journal_fd=fd, journal=journal, persistent=True, **changes)


def restart(it: Bench, index: int) -> None:
    """The frontend makes its ring anew."""
    it.frontend.ring[:64] = bytes(64)
    it.frontend.start_at(index)


@STARTS
@ORDER
def test_f13_producer_at_every_distance_is_served_or_a_fault(
    start: int, journal: bool, journal_file: int
) -> None:
    """req_prod from two rings behind to three ahead, and at the far ends of 2^32: up to a ring full
    is served, all else ends in a fault; either way everything is given back and the next
    connection works."""
    distances = [*range(-2 * SLOTS, 3 * SLOTS), 1 << 16, 1 << 31, (1 << 31) - 1, -(1 << 31)]
    with bench(attach=False) as it:
        for distance in distances:
            restart(it, start)
            for ident in range(SLOTS):
                it.frontend.put(READ, ident, 0, PAGE0)
            assert attach(it, journal, journal_file) == 0
            it.frontend.write_index(REQ_PROD, start + distance)
            if 0 <= distance <= SLOTS:
                assert it.run() == lib.BLK_TIMEOUT
                assert [ident for ident, _, _ in it.frontend.answers()] == list(range(distance))
            else:
                before = bytes(it.frontend.ring)
                assert it.run() == lib.BLK_FAULT
                assert it.run(1000) == lib.BLK_FAULT  # and stays one, without working on
                assert it.status().fault == lib.BLK_FAULT_OVERFLOW
                assert bytes(it.frontend.ring) == before
            assert it.detach() == 0
            assert it.hypervisor.mapped == {}


@ORDER
@pytest.mark.parametrize("back", range(1, 6))
def test_f13_producer_that_takes_back_what_is_at_the_disk_is_a_fault(
    back: int, journal: bool, journal_file: int
) -> None:
    """With five requests at the disk each smaller req_prod is noticed; their pages stay until the
    disk is through, their answers are published, then all is given back."""
    disk = FakeDisk()
    with bench(disk=disk, attach=False, engine=lib.BLK_ENGINE_AUTO, direct_io=1) as it:
        assert attach(it, journal, journal_file) == 0
        disk.gate.clear()
        for ident in range(5):
            it.frontend.put(READ, ident, 8 * ident, [(100 + ident, 0, 7)])
        it.frontend.push()
        assert it.run() == lib.BLK_TIMEOUT
        it.frontend.write_index(REQ_PROD, 5 - back)

        assert it.run() == lib.BLK_FAULT
        assert it.detach(1) == -110
        assert sum(it.hypervisor.mapped.values()) == 5
        disk.gate.set()
        assert it.detach() == 0
        assert sorted(ident for ident, _, _ in it.frontend.answers()) == [0, 1, 2, 3, 4]
        assert it.hypervisor.mapped == {}


@ORDER
def test_f14_our_indices_overwritten_all_the_time_change_nothing(
    journal: bool, journal_file: int
) -> None:
    """rsp_prod, req_event and rsp_event hold anything before each batch and while the disk works;
    every answer comes, in its slot, and the index that is published is ours."""
    disk = FakeDisk()
    with bench(disk=disk, attach=False, start=TOP - 100) as it:
        assert attach(it, journal, journal_file) == 0
        frontend = it.frontend
        values = [0, 1, SLOTS, SLOTS + 1, 1 << 31, TOP - 1, TOP - 100, 99]

        def overwrite(_operation: str, offset: int) -> int:
            for index in (REQ_EVENT, RSP_PROD, RSP_EVENT):
                frontend.write_index(index, values[(offset // 4096 + index) % len(values)])
            return 0

        disk.fail = overwrite
        for round_ in range(50):
            for ident in range(7):
                frontend.put(READ, 7 * round_ + ident, 8 * ident, PAGE0)
            overwrite("", 4096 * round_)
            frontend.push()
            for _ in range(2):  # a slow first run ends before the sleep, where it asks for events
                assert it.run() == lib.BLK_TIMEOUT
            assert frontend.answers() == [(7 * round_ + n, READ, OKAY) for n in range(7)]
            assert frontend.index(REQ_EVENT) == (TOP - 100 + 7 * (round_ + 1) + 1) % TOP


@ORDER
def test_f14_guest_that_never_takes_its_answers_costs_nothing(
    journal: bool, journal_file: int
) -> None:
    """A hundred rings of requests, none of the answers looked at: the slots are the guest's to
    lose, nothing is kept for it here."""
    with bench(attach=False) as it:
        assert attach(it, journal, journal_file) == 0
        for _ in range(100):
            for ident in range(SLOTS):
                it.frontend.put(READ, ident, 0, PAGE0)
            it.frontend.push()
            assert it.run() == lib.BLK_TIMEOUT
            counters = it.counters()
            assert counters["in_flight"] == 0
            assert counters["persistent_grants"] == 1

        assert it.counters()["rd_req"] == 100 * SLOTS


@STARTS
@pytest.mark.parametrize(
    ("ahead", "batches_with_event"), [(1, 20), (0, 0), (SLOTS + 1, 0), (1 << 31, 0), (TOP - 1, 0)]
)
def test_f14_rsp_event_asks_for_one_event_per_batch_at_most(
    start: int, ahead: int, batches_with_event: int
) -> None:
    """A guest that wants to be told of each response is told once per batch; one that asks for
    nothing, the past or the far future is told nothing."""
    with bench(start=start) as it:
        for _ in range(20):
            for ident in range(SLOTS):
                it.frontend.put(READ, ident, 0, PAGE0)
            it.frontend.write_index(RSP_EVENT, it.frontend.index(RSP_PROD) + ahead)
            assert len(it.serve()) == SLOTS

        assert it.hypervisor.notified == [PORT] * batches_with_event


class Storm(FakeHypervisor):
    """Its guest notifies again as soon as the port is unmasked: no event melts into another."""

    def __init__(self, events: int) -> None:
        self.left = events
        self.over = os.eventfd(0)
        super().__init__(96)

    def _unmask(self, _: Any, port: int) -> int:
        if self.left:
            self.left -= 1
            self.send_event()
        else:
            os.eventfd_write(self.over, 1)
        return 0

    def close(self) -> None:
        super().close()
        os.close(self.over)


@pytest.fixture
def storm() -> Storm:
    """Of which `bench` disposes."""
    return Storm(STORM)


def test_f15_event_storm_without_work_costs_its_events_and_no_polling(storm: Storm) -> None:
    """A hundred thousand notifications without a request: one look at the ring for each and no
    more; above all the guest cannot make us watch the ring all the time."""
    with bench(hypervisor=storm, poll_us=50) as it:
        storm.send_event()
        assert it.run(60_000, [storm.over]) == lib.BLK_WAKE

        counters = it.counters()
        assert counters["wakeups"] == STORM + 1
        # Each event is one sleep; a few more when the clock says to look at the descriptors.
        assert storm.waits <= 2 * STORM
        assert counters["poll_misses"] < 10
        assert it.status().poll_us == 0
        assert (counters["batches"], counters["notifies"], storm.notified) == (0, 0, [])
        it.frontend.put(READ, 1, 0, PAGE0)
        assert it.serve() == [(1, READ, OKAY)]


def test_f15_event_storm_of_foreign_ports_ends_at_the_mask() -> None:
    """Ports that are not ours stay masked, so each can come once; the own one is still served."""
    with bench() as it:
        for port in range(1000, 3000):
            it.hypervisor.pending_ports.append(port)
        it.hypervisor.send_event()
        it.frontend.put(READ, 1, 0, PAGE0)
        it.frontend.push()
        for _ in range(400):
            it.run()
        assert it.hypervisor.pending_ports == []
        assert it.counters()["stray_events"] == 2000
        assert it.hypervisor.unmasked == [PORT]
        assert it.frontend.answers() == [(1, READ, OKAY)]


def test_f15_request_without_an_event_is_found_when_the_worker_looks() -> None:
    """A guest that is asked for an event and sends none waits for the worker's next turn, and
    only itself does: the request is served, and nothing spins meanwhile."""
    with bench() as it:
        for ident in range(200):
            it.run(1)
            assert it.frontend.index(REQ_EVENT) == ident + 1  # it was asked
            it.frontend.put(READ, ident, 0, PAGE0)
            it.frontend.push()
            assert it.run() == lib.BLK_TIMEOUT
            assert it.frontend.answers() == [(ident, READ, OKAY)]
        assert it.counters()["wakeups"] == 0
        assert it.hypervisor.waits <= 1000


def test_f15_no_event_is_lost_to_a_guest_that_sends_only_those_asked_for() -> None:
    """One request at a time, thousands of times, at every moment of the worker's way into
    its sleep: it is rung for only if it asked, and yet each request is served."""
    with flip_bench(LAYOUT_64, engine=lib.BLK_ENGINE_SYNC, poll_us=0) as it:
        assert it.attach(persistent=False, journal=False) == 0

        assert it.serve_polite_guest(1_500) == lib.BLK_WAKE
        assert it.report()["first"] == ""
        assert it.counters().f_req == 1_500
