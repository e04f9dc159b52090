# SPDX-License-Identifier: MIT
"""Ring indices, publication, notification, polling and sleeping of the blkif backend."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import pytest

from tests.fakes.block.blk import (
    LAYOUT_32,
    LAYOUT_64,
    OKAY,
    READ,
    FakeDisk,
    Layout,
    bench,
)
from tests.fakes.hv import PORT
from worker.devices.block.native._block import lib

PAGE0 = [(100, 0, 7)]
REQ_PROD, REQ_EVENT, RSP_PROD, RSP_EVENT = 0, 4, 8, 12


@contextlib.contextmanager
def served_flag() -> Iterator[tuple[int, FakeDisk]]:
    """A disk, and a descriptor that becomes readable when the disk is first used."""
    flag = os.eventfd(0)

    def use(_operation: str, _offset: int) -> int:
        os.eventfd_write(flag, 1)
        return 0

    try:
        yield flag, FakeDisk(fail=use)
    finally:
        os.close(flag)


@pytest.mark.parametrize("layout", [LAYOUT_64, LAYOUT_32], ids=["x86_64", "x86_32"])
@pytest.mark.parametrize(("order", "slots"), [(0, 32), (1, 64), (2, 128), (3, 256), (4, 512)])
def test_block_ring_full_in_every_size_is_served(layout: Layout, order: int, slots: int) -> None:
    """All slots of every ring size work, also across the wrap of the indices at 2^32."""
    with bench(layout=layout, order=order, start=2**32 - slots // 2) as it:
        assert it.frontend.slots == slots
        for ident in range(slots):
            it.frontend.put(READ, ident, 0, PAGE0)

        assert it.serve_all(slots) == [(ident, READ, OKAY) for ident in range(slots)]
        assert it.frontend.index(RSP_PROD) == slots - slots // 2


@pytest.mark.parametrize("claimed", [33, 34, 2**31, 2**32 - 1])
def test_block_ring_producer_too_far_ahead_is_a_fault(claimed: int) -> None:
    """A producer further ahead than the ring is long faults the ring; nothing is processed."""
    with bench() as it:
        it.frontend.write_index(REQ_PROD, claimed)

        assert it.run() == lib.BLK_FAULT
        assert it.status().fault == lib.BLK_FAULT_OVERFLOW
        assert it.status().untrusted_req_prod == claimed
        assert it.frontend.answers() == []
        assert it.run(1000) == lib.BLK_FAULT


def test_block_ring_producer_going_back_is_a_fault() -> None:
    """A producer that takes requests back faults the ring, even with answers outstanding."""
    disk = FakeDisk()
    with bench(disk=disk, engine=lib.BLK_ENGINE_AUTO, direct_io=1) as it:
        disk.gate.clear()
        it.frontend.put(READ, 1, 0, PAGE0)
        it.frontend.put(READ, 2, 0, PAGE0)
        it.frontend.push()
        assert it.run() == lib.BLK_TIMEOUT
        it.frontend.write_index(REQ_PROD, 1)

        assert it.run() == lib.BLK_FAULT


def test_block_ring_outstanding_answers_count_against_the_producer() -> None:
    """The ring is full when as many requests are unanswered as it has slots, not sooner."""
    disk = FakeDisk()
    with bench(disk=disk, engine=lib.BLK_ENGINE_AUTO, direct_io=1) as it:
        disk.gate.clear()
        for ident in range(32):
            it.frontend.put(READ, ident, 0, PAGE0)
        it.frontend.push()
        assert it.run() == lib.BLK_TIMEOUT
        assert it.counters()["in_flight"] == 32
        it.frontend.write_index(REQ_PROD, 33)

        assert it.run() == lib.BLK_FAULT


def test_block_ring_guest_writes_our_index_changes_nothing() -> None:
    """rsp_prod and req_event in the ring are written by us and never believed."""
    with bench() as it:
        it.frontend.put(READ, 1, 0, PAGE0)
        it.serve()
        it.frontend.write_index(RSP_PROD, 77)
        it.frontend.put(READ, 2, 0, PAGE0)
        it.frontend.push()

        assert it.run() == lib.BLK_TIMEOUT
        assert it.frontend.index(RSP_PROD) == 2


def test_block_ring_answers_in_ring_order_whatever_ends_first() -> None:
    """A later request that is finished waits for an older one that is not."""
    disk = FakeDisk(nowait=lambda _o, offset: 11 if offset == 0 else 0)
    with bench(disk=disk, engine=lib.BLK_ENGINE_AUTO) as it:
        disk.gate.clear()
        it.frontend.put(READ, 1, 0, PAGE0)
        it.frontend.put(READ, 2, 16, [(101, 0, 7)])
        it.frontend.push()
        it.run()

        assert disk.calls.count("read nowait") == 2
        assert it.frontend.answers() == []
        disk.gate.set()
        assert it.serve_all(2) == [(1, READ, OKAY), (2, READ, OKAY)]


def test_block_ring_resumed_serves_what_was_not_answered() -> None:
    """A successor starts at the published rsp_prod, notifies once, answers the rest."""
    with bench(attach=False, start=2**32 - 3) as it:
        for ident in range(8):
            it.frontend.put(READ, ident, 0, PAGE0)
        it.frontend.push()
        it.frontend.write_index(RSP_PROD, 2)  # the predecessor answered 5
        it.frontend.rsp_cons = 2

        assert it.attach(resume=1) == 0
        assert it.hypervisor.notified == [PORT]
        assert it.serve() == [(ident, READ, OKAY) for ident in (5, 6, 7)]


@pytest.mark.parametrize("rsp_prod", [2**32 - 1, 50, 2**31])
def test_block_ring_resumed_with_forged_indices_is_refused(rsp_prod: int) -> None:
    """Indices in the ring that cannot be are a fault at once, not work for ever."""
    with bench(attach=False) as it:
        it.frontend.write_index(REQ_PROD, 32)
        it.frontend.write_index(RSP_PROD, rsp_prod)

        assert it.attach(resume=1) == -71
        assert it.status().fault == lib.BLK_FAULT_OVERFLOW


def test_block_ring_attached_twice_works_after_a_detach_only() -> None:
    """One device serves one ring at a time, and a next one after the first was given back."""
    with bench() as it:
        assert it.attach() == -16
        assert it.detach() == 0
        assert it.detach() == 0
        assert it.attach() == 0


@pytest.mark.parametrize(
    ("event", "notified"), [(1, 1), (2, 1), (3, 1), (4, 0), (0, 0), (2**32 - 5, 0)]
)
def test_block_notify_is_sent_only_if_asked_for(event: int, notified: int) -> None:
    """rsp_event within the responses just published asks for one event, anything else for none."""
    with bench() as it:
        it.frontend.write_index(RSP_EVENT, event)
        for ident in range(3):
            it.frontend.put(READ, ident, 0, PAGE0)
        it.serve()

        assert len(it.hypervisor.notified) == notified


def test_block_run_asks_for_an_event_before_it_sleeps() -> None:
    """req_event is one behind the last request seen; it stays behind while there is work."""
    with bench(start=2**32 - 1) as it:
        it.frontend.put(READ, 1, 0, PAGE0)
        it.serve()

        assert it.frontend.index(REQ_EVENT) == 1


def test_s21_block_event_of_own_port_is_unmasked_others_stay_masked() -> None:
    """The device's own port is unmasked before the ring is looked at; a stray one is counted."""
    with bench() as it:
        it.hypervisor.send_event(99)
        it.hypervisor.send_event(PORT)
        it.run()

        assert it.hypervisor.unmasked == [PORT]
        assert it.status().stray_events == 1
        assert it.status().stray_port == 99


def test_block_run_sleeping_is_woken_by_the_guest() -> None:
    """A notification ends the sleep and the request is served in the same call."""
    with served_flag() as (wake, disk), bench(disk=disk) as it:
        it.frontend.put(READ, 1, 0, PAGE0)

        def guest() -> None:
            it.frontend.push()
            it.hypervisor.send_event()

        timer = threading.Timer(0.02, guest)
        timer.start()
        assert it.run(30_000, [wake]) == lib.BLK_WAKE
        timer.join()
        assert it.frontend.answers() == [(1, READ, OKAY)]
        assert it.counters()["wakeups"] == 1


def test_block_run_wake_descriptor_ends_it_at_once() -> None:
    """A readable descriptor of the caller's ends the call, however long it may last."""
    with bench() as it:
        wake = os.eventfd(1)
        try:
            assert it.run(60_000, [wake]) == lib.BLK_WAKE
        finally:
            os.close(wake)


def test_block_run_never_idle_still_comes_back() -> None:
    """A guest that always has a next request cannot keep the worker from its other duties."""
    disk = FakeDisk()
    with bench(disk=disk) as it:
        frontend = it.frontend

        def again(_operation: str, _offset: int) -> int:
            frontend.put(READ, 1, 0, PAGE0)
            frontend.push()
            return 0

        disk.fail = again
        again("", 0)
        assert it.run(10) == lib.BLK_TIMEOUT
        wake = os.eventfd(1)
        try:
            assert it.run(60_000, [wake]) == lib.BLK_WAKE
        finally:
            os.close(wake)


def test_block_poll_budget_idle_shrinks_to_nothing() -> None:
    """An idle disk stops polling after a few tries."""
    with bench(poll_us=100) as it:
        assert it.status().poll_us == 100
        for _ in range(6):
            it.run(1)

        assert it.status().poll_us == 0
        misses = it.counters()["poll_misses"]
        it.run(1)
        assert it.counters()["poll_misses"] == misses


def test_block_poll_finds_work_without_an_event() -> None:
    """While the ring is watched a request is served although the guest sends no event."""
    for _ in range(50):  # a guest that is quicker than the first look finds no poll
        with served_flag() as (wake, disk), bench(disk=disk, poll_us=1_000_000) as it:
            it.frontend.put(READ, 1, 0, PAGE0)
            timer = threading.Timer(0.01, it.frontend.push)
            timer.start()
            assert it.run(30_000, [wake]) == lib.BLK_WAKE
            timer.join()

            assert it.frontend.answers() == [(1, READ, OKAY)]
            assert it.counters()["wakeups"] == 0
            if it.counters()["poll_hits"] == 1:
                return
    raise AssertionError("polling never found anything")
