# SPDX-License-Identifier: MIT
"""The frontend's ring in C: requests, responses, grants, and what goes wrong with them."""

from __future__ import annotations

import os
import struct
import threading

import pytest

from shared.errors import HostError
from tests.fakes.block.guest_loop import Loop
from worker.devices.block.guest.load import LoadConfig
from worker.devices.block.guest.ring import (
    REQ_PROD,
    RSP_PROD,
    BlockIoError,
    RingBrokenError,
    StoppedError,
    StuckError,
)

FORMS = [(64, True), (64, False), (32, True), (32, False)]


@pytest.mark.parametrize(("bits", "persistent"), FORMS)
@pytest.mark.parametrize("order", [0, 4])
def test_ring_data_written_is_data_read(bits: int, persistent: bool, order: int) -> None:
    """Odd lengths and places, more data than the ring and the pages hold at once."""
    with Loop(order=order, bits=bits, persistent=persistent, sectors=4096, pages=64) as loop:
        data = os.urandom(1025 * 512)
        loop.ring.write(3, data)
        assert data == bytes(loop.disk[3 * 512 : 3 * 512 + len(data)])
        assert loop.ring.read(3, 1025) == data
        assert loop.ring.read(1026, 2) == data[-1024:]


@pytest.mark.parametrize(("order", "slots"), [(0, 32), (1, 64), (2, 128), (3, 256), (4, 512)])
@pytest.mark.parametrize("bits", [32, 64])
def test_ring_slots_are_as_the_headers_say(order: int, slots: int, bits: int) -> None:
    """32 slots per page of ring in both layouts."""
    with Loop(order=order, bits=bits) as loop:
        assert loop.ring.slots == slots


def test_ring_indices_wrap_around_without_notice() -> None:
    """A ring whose indices start just below 2^32 works on across it."""
    with Loop(order=0, first_index=2**32 - 40, pages=32) as loop:
        for turn in range(100):
            loop.ring.write(turn, bytes([turn]) * 512)
        assert loop.ring.index(REQ_PROD) == 60
        assert loop.ring.index(RSP_PROD) == 60
        assert loop.ring.read(0, 100) == b"".join(bytes([n]) * 512 for n in range(100))


def test_ring_flush_and_discard_are_answered() -> None:
    """Requests without data, and a discard that empties what it names."""
    with Loop() as loop:
        loop.ring.write(8, b"x" * 1536)
        loop.ring.flush()
        loop.ring.discard(9, 1)
        assert loop.ring.read(8, 3) == b"x" * 512 + bytes(512) + b"x" * 512


def test_ring_refused_request_is_an_error_with_its_status() -> None:
    """Sectors past the end; the ring works on after it."""
    with Loop(sectors=64) as loop:
        with pytest.raises(BlockIoError) as caught:
            loop.ring.read(60, 8)
        assert caught.value.status == -1
        assert loop.ring.read(0, 8) == bytes(4096)


def test_ring_without_persistent_grants_leaves_nothing_granted() -> None:
    """Every grant ends with its request."""
    with Loop(persistent=False) as loop:
        loop.ring.write(0, os.urandom(512 * 100))
        loop.ring.read(0, 100)
        assert loop.entries() == []
        assert loop.ring.counters().grants_in_use == 0


def test_ring_page_still_held_by_the_backend_is_not_used_again() -> None:
    """A pinned entry stays as it is; the page is retired and counted."""
    with Loop(persistent=False, pages=2, faults={"keep": 1}) as loop:
        loop.ring.read(0, 1)
        assert loop.ring.counters().grants_in_use == 1
        assert loop.entries() == [1 | 8]
        loop.ring.read(0, 1)
        assert loop.ring.counters().grants_in_use == 1
        with pytest.raises(HostError, match="buffer space"):
            loop.ring.read(0, 16)


def test_ring_silent_backend_is_stuck_and_its_pages_stay_away() -> None:
    """Without an answer the call ends by its time limit; what is in flight stays in flight."""
    with Loop(faults={"swallow": 3}) as loop:
        for _ in range(3):
            loop.ring.read(0, 8)
        with pytest.raises(StuckError):
            loop.ring.read(0, 8, timeout=0.05)
        assert loop.ring.in_flight == 1


def test_ring_stop_ends_a_waiting_call_until_resume() -> None:
    """Another thread can end a call that would wait for long."""
    with Loop(faults={"swallow": 1}) as loop:
        loop.ring.read(0, 1)
        timer = threading.Timer(0.02, loop.ring.stop)
        timer.start()
        with pytest.raises(StoppedError):
            loop.ring.read(0, 1, timeout=30)
        timer.join()
        with pytest.raises(StoppedError):
            loop.ring.read(0, 1, timeout=30)
        loop.ring.resume()
        with pytest.raises(StuckError):
            loop.ring.read(0, 1, timeout=0.01)


def test_ring_response_sent_twice_is_found() -> None:
    """The second response of a request answers nothing that was asked."""
    # Seen with the second answer or after it, as the two threads happen to run.
    with Loop(faults={"repeat": 2}) as loop, pytest.raises(RingBrokenError):
        _read_often(loop)


def test_ring_producer_ahead_of_what_was_asked_is_found() -> None:
    """A response index that cannot have been reached is not followed."""
    with Loop(faults={"swallow": 1}) as loop:
        loop.ring.read(0, 1)
        loop.ring.poke(RSP_PROD, 1000)
        with pytest.raises(RingBrokenError):
            loop.ring.read(0, 1, timeout=1)


def test_ring_raw_slot_is_sent_as_it_is() -> None:
    """Any bytes can be sent; the answer comes back as bytes."""
    with Loop() as loop:
        loop.ring.raw_submit(struct.pack("<BBHxxxxQQ", 77, 0, 0, 0x1234, 0))
        assert loop.ring.raw_wait(5)
        answer = loop.ring.raw_response()
        assert answer is not None
        assert struct.unpack("<QBxhxxxx", answer) == (0x1234, 77, -2)
        assert loop.ring.raw_response() is None


def test_ring_raw_slot_that_is_too_long_is_refused() -> None:
    """A slot cannot run over into its neighbour."""
    with Loop(bits=32) as loop, pytest.raises(Exception, match="not possible"):
        loop.ring.raw_submit(bytes(109))


def test_ring_few_pages_still_move_large_blocks() -> None:
    """An I/O of 1 MiB goes through eleven pages piece by piece."""
    with Loop(order=0, pages=11, sectors=8192) as loop:
        result = loop.ring.run(LoadConfig(rw="read", block_size=1 << 20, depth=4).check(8192 * 512))
        assert (result.end, result.reads, result.read_bytes) == ("done", 4, 4 << 20)


def test_ring_no_page_for_one_request_is_an_error() -> None:
    """Said at once instead of waiting forever."""
    with Loop(pages=2) as loop, pytest.raises(HostError, match="buffer space"):
        loop.ring.run(LoadConfig(block_size=65536).check(1 << 20))


def _read_often(loop: Loop) -> None:
    for _ in range(8):
        loop.ring.read(0, 8)
