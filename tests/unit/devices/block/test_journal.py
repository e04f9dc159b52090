# SPDX-License-Identifier: MIT
"""The in-flight journal: order of answers, whose journal it is, what is damaged."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator

import pytest

from tests.fakes.block.blk import ERROR, FLUSH, OKAY, READ, WRITE
from tests.fakes.block.blkinject import KILLED, Done, Mortal, connected, stamp, statuses
from worker.devices.block.native._block import lib

HEADER = 192
ENTRY = 128
TAKEN, ANSWERED = 128, 136
ORDER = 8
"""Offsets of the header's fields (blk_journal.h)."""


@pytest.fixture
def mortal() -> Iterator[Mortal]:
    """A worker on a new ring."""
    with connected() as it:
        yield it


def poke(mortal: Mortal, offset: int, form: str, value: int) -> None:
    """Change the journal's file."""
    os.pwrite(mortal.journal, struct.pack(form, value), offset)


def peek(mortal: Mortal, offset: int, form: str = "<Q") -> int:
    """Read from the journal's file."""
    data = os.pread(mortal.journal, struct.calcsize(form), offset)
    value: int = struct.unpack(form, data)[0]
    return value


def entry_in_state(mortal: Mortal, state: int) -> int:
    """Offset of the first entry in that state."""
    for number in range(32):
        offset = HEADER + number * ENTRY
        if peek(mortal, offset) & 0xFF == state:
            return offset
    raise AssertionError(f"no entry in state {state}")


def two_answers(mortal: Mortal) -> None:
    """Two requests in flight claim the same response."""
    for _ in range(2):
        poke(mortal, entry_in_state(mortal, 1), "<Q", 3 | 1 << 32)


# --- order


def test_block_journal_finished_request_does_not_wait_for_an_older_one(mortal: Mortal) -> None:
    """The youngest of three is answered while the others are still at the disk."""
    mortal.read(1, 2, 3)
    mortal.finish(2)
    mortal.run()

    assert mortal.frontend.answers() == [(3, READ, OKAY)]


def test_block_journal_off_answers_in_ring_order() -> None:
    """Without it a finished request waits for older ones."""
    mortal = Mortal()
    assert mortal.start(resume=False, journal=0) == 0
    mortal.read(1, 2)
    mortal.finish(1)
    mortal.run()
    assert mortal.frontend.answers() == []
    mortal.finish(0)
    mortal.run()

    assert [ident for ident, _, _ in mortal.frontend.answers()] == [1, 2]
    mortal.close()


def test_block_journal_slow_request_outlives_many_rounds_of_the_ring(mortal: Mortal) -> None:
    """While one request waits, its slot serves others again and again, and nothing is lost."""
    mortal.read(*range(10, 30))  # entries that are used once and then lie idle
    assert mortal.settle()
    assert len(mortal.frontend.answers()) == 20
    mortal.put(WRITE, 1000, 800, 40)
    mortal.page(40)[:] = stamp(1000)
    mortal.frontend.push()
    mortal.run()
    for ident in range(100):
        mortal.put(READ, ident, 0, 1)
        mortal.frontend.push()
        mortal.run()
        mortal.finish(1)
        mortal.run()
        assert mortal.frontend.answers() == [(ident, READ, OKAY)]
    mortal.kill()

    assert mortal.start() == 0
    assert mortal.settle()
    assert mortal.frontend.answers() == [(1000, WRITE, OKAY)]
    assert mortal.disk.data[800 * 512 : 808 * 512] == stamp(1000)


# --- taking up


def test_block_journal_successor_runs_again_what_has_no_answer(mortal: Mortal) -> None:
    """What is in flight at the death is answered by the next worker, in the order of the ring."""
    mortal.read(1, 2, 3)
    mortal.finish(1)
    mortal.run()
    mortal.frontend.answers()
    mortal.kill()
    mortal.disk.trace.clear()

    assert mortal.start() == 0
    assert mortal.counters()["reissued"] == 2
    assert mortal.hypervisor.notified != []
    mortal.run()
    mortal.finish(0)
    mortal.finish(0)
    mortal.run()
    assert [ident for ident, _, _ in mortal.frontend.answers()] in ([1, 3], [3, 1])
    assert mortal.disk.trace == [Done("read", 8 * 512), Done("read", 24 * 512)]


def test_block_journal_killed_while_taking_leaves_no_entry_behind(mortal: Mortal) -> None:
    """An entry written, the count not: the request is read from the ring again, once, and all
    entries can be used afterwards."""
    mortal.put(READ, 0, 0, 0)
    mortal.frontend.push()
    words = mortal.frontend.layout.slot // 4
    mortal.arm(words + 1)
    assert mortal.run() == KILLED
    mortal.arm(0)
    mortal.kill()
    assert entry_in_state(mortal, 1)
    assert peek(mortal, TAKEN) == 0

    assert mortal.start() == 0
    assert mortal.counters()["reissued"] == 0
    mortal.read(*range(1, mortal.frontend.slots))
    assert mortal.queued() == mortal.frontend.slots
    assert mortal.settle()
    assert statuses(mortal.frontend.answers()) == dict.fromkeys(range(32), OKAY)


def test_block_journal_requests_that_came_meanwhile_are_found(mortal: Mortal) -> None:
    """The guest goes on while nobody serves; its event went nowhere."""
    mortal.read(1)
    mortal.kill()
    mortal.put(READ, 2, 8, 2)
    mortal.frontend.push()

    assert mortal.start() == 0
    assert mortal.settle()
    assert statuses(mortal.frontend.answers()) == {1: OKAY, 2: OKAY}


def test_block_journal_flush_run_again_covers_what_was_answered_before(mortal: Mortal) -> None:
    """A write answered before the death is durable when the flush is answered after it."""
    mortal.page(1)[:] = stamp(1)
    mortal.put(WRITE, 1, 0, 1)
    mortal.frontend.push()
    assert mortal.settle()
    mortal.frontend.put(FLUSH, 2)
    mortal.frontend.push()
    mortal.run()
    mortal.kill()
    assert mortal.disk.durable[:4096] == bytes(4096)

    assert mortal.start() == 0
    assert mortal.settle()
    assert statuses(mortal.frontend.answers()) == {1: OKAY, 2: OKAY}
    assert mortal.disk.durable[:4096] == stamp(1)


def test_block_journal_detached_leaves_a_ring_that_goes_on(mortal: Mortal) -> None:
    """A planned hand-over: nothing is in flight, and the next worker begins where it stopped."""
    mortal.read(1, 2)
    assert mortal.settle()
    mortal.kill()

    assert mortal.start() == 0
    assert mortal.counters()["reissued"] == 0
    mortal.read(3)
    assert mortal.settle()
    assert statuses(mortal.frontend.answers()) == {1: OKAY, 2: OKAY, 3: OKAY}


def test_block_journal_option_changed_keeps_the_order_of_the_connection() -> None:
    """A live ring goes on in the order it began with, whatever the option says now."""
    mortal = Mortal()
    assert mortal.start(resume=False, journal=0) == 0
    mortal.read(1, 2)
    mortal.kill()
    assert mortal.start(journal=1) == 0
    mortal.run()
    mortal.finish(1)
    mortal.run()
    assert mortal.frontend.answers() == []

    mortal.finish(0)
    mortal.run()
    assert statuses(mortal.frontend.answers()) == {1: OKAY, 2: OKAY}
    mortal.close()


# --- whose journal it is


def new_ring(mortal: Mortal) -> None:
    """The frontend connects anew: an empty ring."""
    mortal.frontend.ring[:64] = bytes(64)
    mortal.frontend.start_at(0)


def test_block_journal_of_a_frontend_that_connects_anew_is_truncated(mortal: Mortal) -> None:
    """What was in flight on the ring before is nobody's any more."""
    mortal.read(1, 2)
    mortal.kill()
    new_ring(mortal)

    assert mortal.start(resume=False) == 0
    assert mortal.counters()["reissued"] == 0
    mortal.read(3)
    assert mortal.settle()
    assert mortal.frontend.answers() == [(3, READ, OKAY)]


@pytest.mark.parametrize("changes", [{"refs": [9]}, {"remote_port": 6}, {"layout32": 1}])
def test_block_journal_of_another_connection_is_discarded(
    mortal: Mortal, changes: dict[str, object]
) -> None:
    """Other references, port or layout: nobody has taken anything from this ring."""
    mortal.read(1, 2)
    mortal.kill()
    new_ring(mortal)

    assert mortal.start(resume=True, **changes) == 0
    assert mortal.counters()["reissued"] == 0


@pytest.mark.parametrize("stale", [0, 1], ids=["in ring order", "out of order"])
def test_block_journal_killed_while_beginning_on_a_live_ring_is_begun_again(stale: int) -> None:
    """Whoever is killed before another connection's journal was replaced has taken nothing."""
    point = 0
    died = True
    while died:
        point += 1
        mortal = Mortal()
        assert mortal.start(resume=False, refs=[9], journal=stale) == 0
        mortal.kill()
        mortal.put(READ, 1, 8, 1)
        mortal.frontend.push()
        mortal.arm(point)
        died = mortal.start() == KILLED
        if died:
            mortal.arm(0)
            mortal.kill()
            assert mortal.start() == 0, f"point {point}"
        mortal.arm(0)
        assert os.fstat(mortal.journal).st_size == HEADER + 32 * ENTRY
        assert mortal.settle()
        assert mortal.frontend.answers() == [(1, READ, OKAY)]
        mortal.close()
    assert point > 3


def test_block_journal_lost_with_requests_in_the_ring_is_said(mortal: Mortal) -> None:
    """Which of them have an answer nobody knows: refused, and no slot is read."""
    mortal.read(1)
    mortal.kill()
    os.ftruncate(mortal.journal, 0)

    assert mortal.start() == -errno.ENODATA
    assert mortal.disk.trace == []


def test_block_journal_lost_with_an_empty_ring_is_begun_anew(mortal: Mortal) -> None:
    """Nothing is in flight, so nothing can be taken for something else."""
    mortal.read(1)
    assert mortal.settle()
    mortal.frontend.answers()
    mortal.kill()
    os.ftruncate(mortal.journal, 0)

    assert mortal.start() == 0
    mortal.read(2)
    assert mortal.settle()
    assert mortal.frontend.answers() == [(2, READ, OKAY)]


# --- damaged, hostile


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda m: poke(m, 0, "<Q", 1), "magic"),
        (lambda m: poke(m, ORDER, "<I", 3), "order of publication"),
        (lambda m: os.ftruncate(m.journal, HEADER + 5), "length"),
        (lambda m: os.ftruncate(m.journal, 1 << 40), "length"),
        (lambda m: poke(m, TAKEN, "<Q", 0), "counts of requests and responses"),
        (lambda m: poke(m, TAKEN, "<Q", 1 << 63), "counts of requests and responses"),
        (lambda m: poke(m, ANSWERED, "<Q", 2), "number of requests in flight"),
        (lambda m: poke(m, entry_in_state(m, 1), "<B", 4), "state of an entry"),
        (lambda m: poke(m, entry_in_state(m, 1), "<B", 0), "number of requests in flight"),
        (lambda m: poke(m, entry_in_state(m, 1) + 8, "<Q", 99), "sequence of a request"),
        (lambda m: poke(m, entry_in_state(m, 1) + 8, "<Q", 2), "two requests for one index"),
        (lambda m: poke(m, entry_in_state(m, 1), "<Q", 3 | 99 << 32), "index of a response"),
        (lambda m: poke(m, entry_in_state(m, 1), "<Q", 3 | 5 << 16), "status of a response"),
        (lambda m: poke(m, entry_in_state(m, 1), "<Q", 3 | 2 << 32), "a gap in the responses"),
        (lambda m: poke(m, entry_in_state(m, 1) + 1, "<B", 4), "marks of a request"),
        (two_answers, "two entries for one response"),
    ],
)
def test_block_journal_damaged_is_refused_and_nothing_done(
    mortal: Mortal, damage: Callable[[Mortal], object], what: str
) -> None:
    """A worker that was taken over left it so: no request is run by it."""
    mortal.read(1)
    assert mortal.settle()
    mortal.read(2, 3)
    mortal.kill()
    mortal.disk.trace.clear()
    damage(mortal)
    before = os.pread(mortal.journal, 8192, 0)

    assert mortal.start() == -errno.EBADMSG
    assert what in mortal.broken()
    assert os.pread(mortal.journal, 8192, 0) == before
    assert mortal.disk.trace == []


def test_block_journal_changed_request_is_checked_like_one_of_the_ring(mortal: Mortal) -> None:
    """A copy in the journal that breaks a rule gets an error, as it would in the ring."""
    mortal.read(1)
    mortal.kill()
    poke(mortal, entry_in_state(mortal, 1) + 16 + 16, "<Q", 1 << 40)  # sector

    assert mortal.start() == 0
    assert mortal.settle()
    assert mortal.frontend.answers() == [(1, READ, ERROR)]
    assert mortal.disk.trace == []


@pytest.mark.parametrize("change", [-1, 1, 32, 0x7FFFFFFF])
def test_block_journal_rsp_prod_not_ours_is_a_fault_of_the_guest(
    mortal: Mortal, change: int
) -> None:
    """The guest wrote over the index of responses: the ring is not taken up."""
    mortal.read(1, 2)
    mortal.kill()
    mortal.frontend.write_index(8, mortal.frontend.index(8) + change)

    assert mortal.start() == -errno.EPROTO
    assert mortal.status().fault == lib.BLK_FAULT_RESPONSES


@pytest.mark.parametrize("req_prod", [1, 1000])
def test_block_journal_req_prod_impossible_is_a_fault_of_the_guest(
    mortal: Mortal, req_prod: int
) -> None:
    """Fewer requests than were taken, or more than there are slots."""
    mortal.read(1, 2)
    mortal.kill()
    mortal.frontend.write_index(0, req_prod)

    assert mortal.start() == -errno.EPROTO
    assert mortal.status().fault == lib.BLK_FAULT_OVERFLOW
