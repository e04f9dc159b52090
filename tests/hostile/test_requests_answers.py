# SPDX-License-Identifier: MIT
"""What a guest finds in its ring afterwards (F24, XSA-216): the answers, and nothing else.

Slots are compared whole, and so is all around them; what the rest of a slot held is what the guest
wrote there itself, so it must be there still.
"""

from __future__ import annotations

import struct

import pytest

from tests.fakes.block.blk import (
    DISCARD,
    EAGAIN,
    EIO,
    EOPNOTSUPP,
    ERROR,
    FLUSH,
    HEADER,
    LAYOUT_32,
    LAYOUT_64,
    OKAY,
    READ,
    WRITE,
    FakeDisk,
    Layout,
    bench,
)
from worker.devices.block.native._block import lib

BOTH = pytest.mark.parametrize("layout", [LAYOUT_64, LAYOUT_32], ids=["x86_64", "x86_32"])
GRANTS = pytest.mark.parametrize("persistent", [False, True], ids=["copy", "persistent"])
ORDER = pytest.mark.parametrize("journal", [False, True], ids=["ring", "journal"])
INDICES = 16
"""Bytes of the header that are indices; the rest of it is not ours."""

KINDS = [
    # operation, segments, number of them, sector, expected status
    (READ, [(100, 0, 7)], 1, 0, OKAY),
    (WRITE, [(101, 3, 3)], 1, 8, OKAY),
    (READ, [(102, 0, 7)], 1, 1 << 40, ERROR),
    (FLUSH, [], 0, 0, OKAY),
    (READ, [(9999, 0, 7)], 1, 0, ERROR),
    (WRITE, [(9999, 0, 7)], 1, 0, ERROR),
    (WRITE, [(100, 7, 0)], 1, 0, ERROR),
    (200, [(100, 0, 7)], 1, 0, EOPNOTSUPP),
    (DISCARD, [], 1, 0, ERROR),
    (READ, [(103, 0, 7)], 1, 64, ERROR),  # the disk fails there
]


def answer(layout: Layout, ident: int, operation: int, status: int) -> bytes:
    """`struct blkif_response` with all of its padding."""
    return struct.pack("<QBxh", ident, operation, status).ljust(layout.response, b"\0")


@BOTH
@GRANTS
@ORDER
def test_f24_answers_change_their_own_bytes_and_no_others(
    layout: Layout, persistent: bool, journal: bool, journal_file: int
) -> None:
    """Every outcome of every operation, a whole ring of them across its end and across that of the
    indices: padding is zero; the unused part of each slot, the header's rest and the page behind
    the slots stay as the guest left them."""
    disk = FakeDisk(fail=lambda _operation, offset: 5 if offset == 64 * 512 else 0)
    start = 2**32 - 5
    with bench(layout=layout, disk=disk, attach=False, start=start) as it:
        it.frontend.ring[INDICES:] = b"\xc3" * (len(it.frontend.ring) - INDICES)
        fd = journal_file if journal else -1
        assert it.attach(journal_fd=fd, journal=journal, persistent=persistent) == 0
        for first in (0, 32, 64):
            wanted = {}
            for n in range(32):
                operation, segments, count, sector, status = KINDS[(first + n) % len(KINDS)]
                ident = 0xA1B2C3D4E5F60000 | (first + n)
                it.frontend.put(operation, ident, sector, segments, count=count)
                wanted[ident] = answer(layout, ident, operation, status)
            before = bytes(it.frontend.ring)
            answers = it.serve()
            after = bytes(it.frontend.ring)

            assert {ident for ident, _, _ in answers} == wanted.keys()
            expected = bytearray(before)
            expected[:INDICES] = after[:INDICES]
            for n, (ident, _, _) in enumerate(answers):
                at = HEADER + (start + first + n) % 32 * layout.slot
                expected[at : at + layout.response] = wanted[ident]
            assert after == bytes(expected)


@BOTH
@GRANTS
def test_f24_refused_read_leaves_nothing_of_ours_in_the_guest_s_page(
    layout: Layout, persistent: bool
) -> None:
    """A read that fails, in whatever way, brings no byte of another request or of our memory: the
    page of every failed read holds what it held, but for what the disk put there itself."""
    disk = FakeDisk(fail=lambda _operation, offset: 5 if offset == 64 * 512 else 0)
    with bench(layout=layout, disk=disk, persistent=persistent) as it:
        it.disk.data[:8192] = b"secret!!" * 1024
        for page in range(16, 96):
            it.hypervisor.page(page)[:] = b"\x5e" * 4096
        for n in range(8):  # the buffers are in use, full of data
            it.frontend.put(READ, n, 0, [(140 + n, 0, 7)])
        assert {status for _, _, status in it.serve()} == {OKAY}
        failing = [
            (READ, 64, [(100, 0, 7)]),  # the disk fails
            (READ, 1 << 50, [(101, 0, 7)]),  # outside
            (READ, 0, [(102, 0, 9)]),  # no such sectors
            (2, 0, [(103, 0, 7)]),  # not offered
        ]
        for operation, sector, segments in failing:
            it.frontend.put(operation, 1, sector, segments)
        assert OKAY not in {status for _, _, status in it.serve()}

        for page in range(16, 20):
            assert bytes(it.hypervisor.page(page)) == b"\x5e" * 4096


@BOTH
@GRANTS
def test_f24_read_of_part_of_a_page_leaves_its_rest_alone(layout: Layout, persistent: bool) -> None:
    """Only the sectors that were asked for are written, from whatever buffer they come."""
    with bench(layout=layout, persistent=persistent) as it:
        it.disk.data[:512] = b"D" * 512
        for number in range(8):
            it.hypervisor.page(16 + number)[:] = b"\x5e" * 4096
            it.frontend.put(READ, number, 0, [(100 + number, number, number)])
        assert {status for _, _, status in it.serve()} == {OKAY}

        for number in range(8):
            page = bytes(it.hypervisor.page(16 + number))
            before, after = b"\x5e" * 512 * number, b"\x5e" * 512 * (7 - number)
            assert page == before + b"D" * 512 + after


@BOTH
@ORDER
def test_f24_outcome_of_a_request_is_not_that_of_the_next_in_its_place(
    layout: Layout, journal: bool, journal_file: int
) -> None:
    """A ring full of requests that the disk fails, then one that it serves at once, then one that
    is refused, in the same slots and buffers: each answer is of its own request."""
    failing = True
    disk = FakeDisk(
        nowait=lambda _operation, _offset: EAGAIN if failing else 0,
        fail=lambda _operation, _offset: EIO,
    )
    with bench(layout=layout, disk=disk, attach=False, engine=lib.BLK_ENGINE_AUTO) as it:
        fd = journal_file if journal else -1
        assert it.attach(journal_fd=fd, journal=journal) == 0
        for status in (ERROR, OKAY, EOPNOTSUPP, OKAY):
            failing = status == ERROR
            operation = 200 if status == EOPNOTSUPP else READ
            for n in range(32):
                # Not one behind the other, so that each is a call of its own; and in one piece.
                it.frontend.put(operation, n, 24 * (n % 5) + (n // 5 % 2) * 8, [(100 + n, 0, 7)])
            assert sorted(it.serve_all(32)) == [(n, operation, status) for n in range(32)]
