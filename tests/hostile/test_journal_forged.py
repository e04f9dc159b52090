# SPDX-License-Identifier: MIT
"""A journal that a worker which was taken over left to its successor (F38b).

What is plainly damaged is in unit/devices/block/test_journal.py. Here are the values just outside
of what can be, those far outside, and whole journals that fit together in all but one thing:
each is refused by name, or its requests are treated as any; no entry leads out of the tables.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator

import pytest

from tests.fakes.block.blk import ERROR, OKAY, READ
from tests.fakes.block.blkinject import KILLED, Done, Mortal, statuses

HEADER, ENTRY = 192, 128
TAKEN = 128
"""Offset of the header's counts, of requests taken and answered (blk_journal.h)."""
FREE, RUNNING, HELD, DONE = 0, 1, 2, 3
SLOTS = 32


def word(state: int, *, marks: int = 0, status: int = 0, index: int = 0) -> int:
    """An entry's word."""
    return state | marks << 8 | (status & 0xFFFF) << 16 | (index & 0xFFFFFFFF) << 32


@pytest.fixture
def mortal() -> Iterator[Mortal]:
    """A worker that has answered request 1 and has 2 and 3 in hand, and is dead: taken is 3,
    answered is 1."""
    it = Mortal()
    assert it.start(resume=False) == 0
    put(it, 1)
    assert it.settle()
    put(it, 2, 3)
    assert it.queued() == 2
    it.kill()
    it.frontend.answers()
    it.disk.trace.clear()
    yield it
    it.close()


def put(mortal: Mortal, *idents: int) -> None:
    """Reads, each of a sector and a page of its own, which the worker begins."""
    for ident in idents:
        mortal.put(READ, ident, ident * 8, ident)
    mortal.frontend.push()
    mortal.run()


def entries(mortal: Mortal, state: int) -> list[int]:
    """Numbers of the entries in that state."""
    words = [peek(mortal, number) for number in range(SLOTS)]
    return [number for number, value in enumerate(words) if value & 0xFF == state]


def peek(mortal: Mortal, number: int) -> int:
    """An entry's word."""
    data = os.pread(mortal.journal, 8, HEADER + number * ENTRY)
    return int.from_bytes(data, "little")


def forge(mortal: Mortal, number: int, value: int, sequence: int | None = None) -> None:
    """Write an entry's word, and its sequence."""
    data = struct.pack("<Q", value)
    if sequence is not None:
        data += struct.pack("<Q", sequence)
    os.pwrite(mortal.journal, data, HEADER + number * ENTRY)


def refused(mortal: Mortal, what: str) -> None:
    """The successor names what is wrong, changes nothing and touches neither ring nor disk."""
    before = os.pread(mortal.journal, 1 << 16, 0)
    ring = bytes(mortal.frontend.ring)
    assert mortal.start() == -errno.EBADMSG
    assert mortal.broken() == what
    mortal.kill()
    assert os.pread(mortal.journal, 1 << 16, 0) == before
    assert bytes(mortal.frontend.ring) == ring
    assert mortal.disk.trace == []


def test_f38b_response_index_out_of_the_ring_is_refused(mortal: Mortal) -> None:
    """One ring ahead of the next response, one and a ring behind it, and half of 2^32 away."""
    number = entries(mortal, RUNNING)[0]
    for distance in (SLOTS, SLOTS + 1, -SLOTS - 1, -(1 << 31), (1 << 31) - 1, 600, -600):
        forge(mortal, number, word(DONE, index=1 + distance))
        refused(mortal, "index of a response")


def test_f38b_status_that_no_response_has_is_refused(mortal: Mortal) -> None:
    """Only OKAY, ERROR and EOPNOTSUPP are statuses (blkif.h)."""
    number = entries(mortal, RUNNING)[0]
    for status in (1, -3, 0x7FFF, -0x8000):
        forge(mortal, number, word(DONE, index=1, status=status))
        refused(mortal, "status of a response")


def test_f38b_states_and_marks_that_no_worker_leaves_are_refused(mortal: Mortal) -> None:
    """Every state there is not, and requests in hand that were poison already."""
    number = entries(mortal, RUNNING)[0]
    for state in range(DONE + 1, 256):
        forge(mortal, number, word(state))
        refused(mortal, "state of an entry")
    for marks in (4, 5, 255):
        forge(mortal, number, word(RUNNING, marks=marks))
        refused(mortal, "marks of a request")


def test_f38b_sequence_that_was_never_taken_is_refused(mortal: Mortal) -> None:
    """A held request cannot be one that is just being taken, nor can any be from after that."""
    number = entries(mortal, RUNNING)[0]
    for state, sequence in [
        (HELD, 3),
        (HELD, 4),
        (RUNNING, 4),
        (HELD, 1 << 63),
        (RUNNING, 1 << 63),
    ]:
        forge(mortal, number, word(state), sequence)
        refused(mortal, "sequence of a request")


def test_f38b_two_requests_just_being_taken_are_refused(mortal: Mortal) -> None:
    """There can be one; with the counts made to fit, so that nothing else is wrong."""
    for number in entries(mortal, RUNNING):
        forge(mortal, number, word(RUNNING), 1)
    os.pwrite(mortal.journal, struct.pack("<Q", 1), TAKEN)

    refused(mortal, "two requests for one index")


def test_f38b_counts_beyond_the_ring_are_refused(mortal: Mortal) -> None:
    """More taken than the ring holds, and more answered than taken."""
    for taken, answered in [(SLOTS + 2, 1), (1, 2), (0, (1 << 64) - 1), ((1 << 64) - 1, 1)]:
        os.pwrite(mortal.journal, struct.pack("<QQ", taken, answered), TAKEN)
        refused(mortal, "counts of requests and responses")


@pytest.mark.parametrize("state", [FREE, HELD, DONE])
def test_f38b_every_entry_forged_alike_is_refused(mortal: Mortal, state: int) -> None:
    """A whole journal of one word: all free although two are in flight, all held at one sequence,
    all answering one index."""
    for number in range(SLOTS):
        forge(mortal, number, word(state, index=1), 2)

    assert mortal.start() == -errno.EBADMSG
    assert mortal.disk.trace == []


def test_f38b_requests_are_run_again_in_the_order_of_the_ring(mortal: Mortal) -> None:
    """An entry that was free first is used by a later request; its number says nothing."""
    assert mortal.start() == 0
    mortal.run()
    mortal.finish(0)
    mortal.run()
    assert [ident for ident, _, _ in mortal.frontend.answers()] == [2]
    put(mortal, 4, 5)  # the first of them into the entry of 2, before that of 3
    sequences = [
        int.from_bytes(os.pread(mortal.journal, 8, HEADER + number * ENTRY + 8), "little")
        for number in entries(mortal, RUNNING)
    ]
    assert sequences != sorted(sequences)
    mortal.kill()
    mortal.disk.trace.clear()

    assert mortal.start() == 0
    for _ in range(6):  # 3 saw two deaths and is run alone
        mortal.run()
        if mortal.queued():
            mortal.finish(0)
    assert mortal.disk.trace == [Done("read", 8 * 512 * ident) for ident in (3, 4, 5)]


def test_f38b_error_answered_at_a_death_is_the_same_error_after_it() -> None:
    """Killed at any store while the answers to failed requests go out: each has one answer and it
    is the failure, although the disk would work by now."""
    points = 0
    while True:
        mortal = Mortal()
        try:
            assert mortal.start(resume=False) == 0
            put(mortal, 1, 2)
            mortal.disk.fail = lambda _operation, _offset: errno.EIO
            mortal.finish(0)
            mortal.finish(0)
            mortal.disk.fail = lambda _operation, _offset: 0
            mortal.arm(points + 1)
            killed = mortal.run() == KILLED
            mortal.arm(0)
            words = [peek(mortal, number) & 0xFF for number in range(SLOTS)]
            mortal.kill()
            assert mortal.start() == 0
            assert mortal.settle()
            found = statuses(mortal.frontend.answers())
            assert found.keys() == {1, 2}
            # What had no outcome in the journal yet is run again, and works.
            assert list(found.values()).count(OKAY) == words.count(RUNNING)
            assert ERROR in found.values() or RUNNING in words
            put(mortal, *range(10, 10 + SLOTS))  # every entry can be used again
            assert mortal.queued() == SLOTS
            assert mortal.settle()
            assert len(mortal.frontend.answers()) == SLOTS
        finally:
            mortal.close()
        if not killed:
            return
        points += 1


def test_f38b_crash_counts_once_however_often_the_worker_is_killed_after_it() -> None:
    """One crash, then one kill: a suspect, and not yet poison."""
    mortal = Mortal()
    try:
        assert mortal.start(resume=False) == 0
        put(mortal, 1)
        mortal.kill(crash=True)
        assert mortal.start() == 0
        mortal.run()
        mortal.kill()
        assert mortal.start() == 0
        assert mortal.settle()
        assert mortal.frontend.answers() == [(1, READ, OKAY)]
    finally:
        mortal.close()
