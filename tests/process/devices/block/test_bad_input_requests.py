# SPDX-License-Identifier: MIT
"""Requests no honest frontend sends: each is answered with an error, and the disk works on."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedded.protocol import GrantFlags
from shared.errors import HostError
from shared.xenbus import XenbusState
from tests.process.lab_world import DEADLINE, SECTORS, Guest, World, running_world
from worker.devices.block.guest.ring import REQ_PROD, RSP_PROD, BlockIoError

READ, WRITE, FLUSH, RESERVED, DISCARD, INDIRECT = 0, 1, 3, 4, 5, 6
ERROR, EOPNOTSUPP = -1, -2
TOP = 2**64

COUNTED: Counter[str] = Counter()
"""What the worker of the present guest must have counted in the end."""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A running xenbackd with a neighbour."""
    with running_world() as it:
        yield it


@pytest.fixture(scope="module", params=["x86_64-abi", "x86_32-abi"])
def guest(world: World, request: pytest.FixtureRequest) -> Iterator[Guest]:
    """A connected guest in either layout of requests."""
    with (
        world.untouched(),
        world.guest(protocol=request.param, persistent=False) as it,
    ):
        it.disk.connect(DEADLINE)
        it.works()
        COUNTED.clear()
        yield it
        # Once for all of them: counters come with the next beat only.
        world.lab.wait_device(it.device, lambda now: COUNTED.items() <= now.counters.items())
        assert [line for line in world.log_of(it) if "ERROR" in line] == []


@pytest.fixture
def data_ref(guest: Guest) -> Iterator[int]:
    """A page for data, which the backend must have let go of afterwards."""
    [frame] = guest.domain.alloc_pages(1)
    ref = guest.domain.grant(frame, domid=0)
    yield ref
    assert guest.domain.end_access(ref)


def packed(
    guest: Guest, operation: int, segments: int, sector: int, *raw: tuple[int, int, int]
) -> bytes:
    """`struct blkif_request` (xen/include/public/io/blkif.h); 32-bit guests do not pad the id."""
    pad = "" if guest.disk.ring is not None and guest.disk.ring.slot_size == 108 else "xxxx"
    head = struct.pack(f"<BBH{pad}QQ", operation, segments, 0, 4711, sector)
    return head + b"".join(struct.pack("<IBBxx", *one) for one in raw)


def answer(guest: Guest, request: bytes) -> int:
    """Submit, and return the status of the answer."""
    ring = guest.disk.ring
    assert ring is not None
    ring.raw_submit(request)
    assert ring.raw_wait(DEADLINE)
    response = ring.raw_response()
    assert response is not None
    id_, _, status = struct.unpack_from("<QBxh", response)
    assert id_ == 4711
    assert isinstance(status, int)
    return status


BAD = [
    # name, operation, number of segments, sector, (first, last) of each segment, status, counter
    ("operation_255", 255, 1, 0, [(0, 7)], EOPNOTSUPP, "bad_operation"),
    ("operation_reserved", RESERVED, 1, 0, [(0, 7)], EOPNOTSUPP, "bad_operation"),
    ("operation_indirect", INDIRECT, READ, 0, [(0, 7)], EOPNOTSUPP, "bad_operation"),
    ("segments_none", READ, 0, 0, [], ERROR, "bad_segments"),
    ("segments_12", READ, 12, 0, [(0, 7)] * 11, ERROR, "bad_segments"),
    ("segments_255", WRITE, 255, 0, [(0, 7)] * 11, ERROR, "bad_segments"),
    ("first_after_last", READ, 1, 0, [(5, 4)], ERROR, "bad_segments"),
    ("last_beyond_page", READ, 1, 0, [(0, 8)], ERROR, "bad_segments"),
    ("last_255", WRITE, 1, 0, [(0, 255)], ERROR, "bad_segments"),
    ("flush_with_segment", FLUSH, 1, 0, [(0, 7)], ERROR, "bad_segments"),
    ("sector_at_the_end", READ, 1, SECTORS, [(0, 0)], ERROR, "bad_range"),
    ("sector_across_the_end", WRITE, 1, SECTORS - 1, [(0, 1)], ERROR, "bad_range"),
    ("sector_wraps_with_count", READ, 1, TOP - 8, [(0, 7)], ERROR, "bad_range"),
    ("sector_all_ones", WRITE, 1, TOP - 1, [(0, 7)], ERROR, "bad_range"),
    ("sector_negative", READ, 1, 2**63, [(0, 7)], ERROR, "bad_range"),
    ("bytes_wrap_to_0", WRITE, 1, 2**55, [(0, 7)], ERROR, "bad_range"),
]


@pytest.mark.parametrize(
    ("operation", "segments", "sector", "spans", "status", "counter"),
    [case[1:] for case in BAD],
    ids=[case[0] for case in BAD],
)
def test_bad_request_is_refused_and_the_disk_works_on(
    guest: Guest,
    data_ref: int,
    operation: int,
    segments: int,
    sector: int,
    spans: list[tuple[int, int]],
    status: int,
    counter: str,
) -> None:
    """The answer is an error, it is counted, and not a byte was written to the disk."""
    before = _image(guest).read_bytes()
    COUNTED[counter] += 1

    raw = [(data_ref, first, last) for first, last in spans]
    assert answer(guest, packed(guest, operation, segments, sector, *raw)) == status

    assert _image(guest).read_bytes() == before
    guest.works()


@pytest.mark.parametrize(
    ("sector", "count", "flag"),
    [(0, TOP - 1, 0), (TOP - 8, 16, 0), (SECTORS, 1, 0), (8, TOP - 8, 0), (0, 0, 0), (0, 8, 1)],
)
def test_bad_discard_is_refused_and_takes_nothing_away(
    guest: Guest, sector: int, count: int, flag: int
) -> None:
    """Wrap-around, past the end, empty, secure: an error, and the content stays."""
    before = _image(guest).read_bytes()
    COUNTED["bad_discard" if flag or not count else "bad_range"] += 1
    request = packed(guest, DISCARD, flag, sector) + struct.pack("<Q", count)
    assert answer(guest, request) == ERROR
    assert _image(guest).read_bytes() == before
    guest.works()


@pytest.mark.parametrize("ref", [0, 1, 4000, 2**32 - 1])
@pytest.mark.parametrize("operation", [READ, WRITE])
def test_bad_data_page_not_granted_is_refused(guest: Guest, ref: int, operation: int) -> None:
    """References the guest never gave: an error, nothing is read, written or left mapped."""
    before = _image(guest).read_bytes()
    assert answer(guest, packed(guest, operation, 1, 0, (ref, 0, 7))) == ERROR
    assert _image(guest).read_bytes() == before
    guest.works()


def test_bad_data_page_readonly_is_not_written_to(guest: Guest) -> None:
    """The answer to a read cannot be put into a page that is granted for reading only."""
    [frame] = guest.domain.alloc_pages(1)
    guest.domain.page(frame)[:] = b"guard" * 819 + b"!"
    ref = guest.domain.grant(frame, domid=0, readonly=True)
    assert answer(guest, packed(guest, READ, 1, 0, (ref, 0, 7))) == ERROR
    assert bytes(guest.domain.page(frame)) == b"guard" * 819 + b"!"
    assert answer(guest, packed(guest, WRITE, 1, 64, (ref, 0, 7))) == 0
    assert guest.disk.read(64, 8) == b"guard" * 819 + b"!"
    assert guest.domain.end_access(ref)


def test_bad_data_page_of_the_frame_beyond_memory_is_refused(guest: Guest) -> None:
    """A grant entry that points outside of the guest: an error."""
    ref = guest.domain.grant(guest.domain.alloc_pages(1)[0], domid=0)
    guest.domain.write_grant_entry(ref, GrantFlags.PERMIT_ACCESS, 0, 2**31)
    assert answer(guest, packed(guest, READ, 1, 0, (ref, 0, 7))) == ERROR
    guest.works()
    guest.domain.write_grant_entry(ref, 0, 0, 0)


def test_bad_write_to_a_readonly_disk_is_refused(world: World) -> None:
    """The guest is told that the disk is read-only; if it writes all the same, an error."""
    image = world.image()
    before = image.read_bytes()
    with world.untouched(), world.guest(image, readonly=True) as guest:
        assert guest.disk.connect(DEADLINE).readonly
        with pytest.raises(BlockIoError) as refused:
            guest.disk.write(0, b"w" * 4096)
        assert refused.value.status == ERROR
        assert guest.disk.read(0, 8) == before[:4096]
        world.lab.wait_device(guest.device, lambda now: now.counters.get("read_only") == 1)
        assert image.read_bytes() == before


@pytest.mark.parametrize("ahead", [513, 2**31, 2**32 - 1])
def test_bad_request_producer_closes_this_device_only(world: World, ahead: int) -> None:
    """More requests than the ring is long: the device closes, and serves the guest's next try."""
    with world.untouched(), world.guest() as guest:
        guest.disk.connect(DEADLINE)
        guest.works()
        ring = guest.disk.ring
        assert ring is not None
        ring.poke(REQ_PROD, ring.index(RSP_PROD) + ahead)
        ring.notify()
        status = world.wait_error(guest, "req_prod", "makes no sense", errno=71)
        assert status.backend in ("Connected", "Closing", "Closed")
        guest.wait_backend(XenbusState.CLOSED)
        guest.disk.advance()
        assert guest.disk.leaked_pages == 0
        with pytest.raises(HostError, match="not connected"):
            guest.disk.read(0, 1)
        guest.disk.restart()
        guest.disk.connect(DEADLINE)
        guest.works()
        world.lab.wait_device(guest.device, lambda now: now.error == "")


def _image(guest: Guest) -> Path:
    return Path(guest.dom0.read(f"{guest.backend}/params").decode())
