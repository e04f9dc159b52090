# SPDX-License-Identifier: MIT
"""Ring primitives from Python: both ends, wrap-around, hostile indices, the notify protocol."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import pytest

from shared.errors import BackendBug, GuestFault
from shared.native._ring import ffi
from shared.ring import INDEX_MASK, BackRing, FrontRing, SharedWords, advance, distance

SLOT = 112
SLOTS = 32


@pytest.fixture
def page() -> Iterator[int]:
    """Address of a zeroed page."""
    with mmap.mmap(-1, mmap.PAGESIZE) as memory:
        buffer = ffi.from_buffer(memory)
        yield int(ffi.cast("uintptr_t", buffer))
        ffi.release(buffer)


def set_indices(page: int, value: int) -> SharedWords:
    """A ring that has been in use until all indices were `value`."""
    words = SharedWords(page, mmap.PAGESIZE)
    for offset in (0, 8):
        words.store_release(offset, value)
    for offset in (4, 12):
        words.store_release(offset, value + 1)
    return words


@pytest.mark.parametrize(("slot", "pages", "slots"), [(112, 1, 32), (108, 1, 32), (112, 16, 512)])
def test_ring_slots_are_the_largest_power_of_two_that_fits(
    slot: int, pages: int, slots: int
) -> None:
    """The numbers of the block interface's rings come out."""
    with mmap.mmap(-1, pages * mmap.PAGESIZE) as memory:
        buffer = ffi.from_buffer(memory)
        ring = BackRing(int(ffi.cast("uintptr_t", buffer)), slot, pages)
        ffi.release(buffer)

    assert ring.slots == slots


def test_ring_request_and_response_pass_through(page: int) -> None:
    """What the frontend puts is what the backend takes, and the other way round."""
    front, back = FrontRing(page, SLOT), BackRing(page, SLOT)
    front.put_request(b"question")
    assert front.push_requests()

    assert back.waiting() == 1
    assert back.take_request()[:8] == b"question"
    back.put_response(b"answer!!")
    assert back.push_responses()

    assert front.waiting() == 1
    assert front.take_response()[:8] == b"answer!!"
    assert front.free == SLOTS


def test_ring_indices_wrap_at_two_to_the_32(page: int) -> None:
    """A ring whose indices pass 2^32 goes on as if nothing was."""
    set_indices(page, INDEX_MASK - 2)
    back = BackRing(page, SLOT)
    words = SharedWords(page, mmap.PAGESIZE)
    words.store_release(0, advance(INDEX_MASK - 2, SLOTS))

    assert back.waiting() == SLOTS
    for _ in range(SLOTS):
        back.take_request()
        back.put_response(b"")
    back.push_responses()

    assert words.load_acquire(8) == SLOTS - 3
    assert back.waiting() == 0


def test_ring_backend_attaches_where_the_last_one_stopped(page: int) -> None:
    """Requests that were not answered are there again for the successor."""
    front, first = FrontRing(page, SLOT), BackRing(page, SLOT)
    for number in range(3):
        front.put_request(b"%d" % number)
    front.push_requests()
    first.waiting()
    first.take_request()
    first.put_response(b"")
    first.push_responses()
    first.take_request()

    second = BackRing(page, SLOT)

    assert second.waiting() == 2
    assert second.take_request()[:1] == b"1"


@pytest.mark.parametrize("ahead", [SLOTS + 1, 1 << 31, INDEX_MASK])
def test_ring_producer_too_far_ahead_is_a_guest_fault(page: int, ahead: int) -> None:
    """More requests than the ring has slots, or going back, is the frontend's fault."""
    words = set_indices(page, 1000)
    back = BackRing(page, SLOT)
    words.store_release(0, 1000 + ahead)

    with pytest.raises(GuestFault, match="ring of 32 slots"):
        back.waiting()
    with pytest.raises(GuestFault):
        back.final_check()


def test_ring_producer_that_goes_back_is_a_guest_fault(page: int) -> None:
    """A producer behind what was taken already is noticed, though within the ring's length."""
    words = set_indices(page, 0)
    back = BackRing(page, SLOT)
    words.store_release(0, 4)
    back.waiting()
    back.take_request()
    back.take_request()
    words.store_release(0, 1)

    with pytest.raises(GuestFault, match="went back"):
        back.waiting()


def test_ring_rsp_prod_rewritten_by_the_guest_changes_nothing(page: int) -> None:
    """Our own index is private: the word in the ring is only where it is published."""
    front, back = FrontRing(page, SLOT), BackRing(page, SLOT)
    words = SharedWords(page, mmap.PAGESIZE)
    front.put_request(b"x")
    front.push_requests()
    words.store_release(8, 0xDEADBEEF)

    back.take_request()
    back.put_response(b"y")

    assert back.push_responses()
    assert words.load_acquire(8) == 1


def test_ring_push_notifies_only_if_the_peer_asked(page: int) -> None:
    """A response before the frontend's event index is silent, the one that reaches it is not."""
    front, back = FrontRing(page, SLOT), BackRing(page, SLOT)
    words = SharedWords(page, mmap.PAGESIZE)
    for _ in range(3):
        front.put_request(b"")
    front.push_requests()
    words.store_release(12, 3)

    told = []
    for _ in range(3):
        back.take_request()
        back.put_response(b"")
        told.append(back.push_responses())

    assert told == [False, False, True]


def test_ring_push_of_nothing_does_not_notify(page: int) -> None:
    """Publishing the same index again tells nobody."""
    assert not BackRing(page, SLOT).push_responses()


def test_ring_final_check_asks_for_the_next_event_and_sees_a_late_request(page: int) -> None:
    """After it said 0 the frontend notifies for the next request; a request before is seen."""
    front, back = FrontRing(page, SLOT), BackRing(page, SLOT)
    front.put_request(b"")
    assert front.push_requests()
    assert back.final_check() == 1
    back.take_request()
    front.put_request(b"")
    assert not front.push_requests()
    assert back.final_check() == 1
    back.take_request()

    assert back.final_check() == 0
    front.put_request(b"")
    assert front.push_requests()


def test_ring_answer_without_a_request_is_our_bug(page: int) -> None:
    """More responses than requests taken is refused before anything is written."""
    with pytest.raises(BackendBug, match="all requests taken are answered"):
        BackRing(page, SLOT).put_response(b"")


def test_ring_frontend_full_or_overanswered_is_refused(page: int) -> None:
    """The frontend's end bounds itself and checks its backend."""
    front = FrontRing(page, SLOT)
    for _ in range(SLOTS):
        front.put_request(b"")
    with pytest.raises(BackendBug, match="it is full"):
        front.put_request(b"")

    SharedWords(page, mmap.PAGESIZE).store_release(8, SLOTS + 1)
    with pytest.raises(BackendBug, match="ahead of the requests"):
        front.waiting()


@pytest.mark.parametrize(("offset", "length"), [(4092, 8), (-1, 1), (4097, 0), (0, 4097)])
def test_words_outside_of_the_area_are_refused(page: int, offset: int, length: int) -> None:
    """No offset leads out of the shared area, neither reading nor writing."""
    words = SharedWords(page, mmap.PAGESIZE)

    with pytest.raises(BackendBug):
        words.read(offset, length)
    with pytest.raises(BackendBug):
        words.write(offset, bytes(length))


def test_words_not_aligned_are_refused(page: int) -> None:
    """A word that is not aligned would not be read at once."""
    with pytest.raises(BackendBug, match="not aligned"):
        SharedWords(page, mmap.PAGESIZE).load_acquire(2)
    with pytest.raises(BackendBug, match="multiple of 4"):
        SharedWords(page + 1, 16)


def test_distance_is_taken_modulo_two_to_the_32() -> None:
    """Just past the wrap is one step ahead of just before it."""
    assert distance(advance(INDEX_MASK), INDEX_MASK) == 1
    assert distance(0, 1) == INDEX_MASK
