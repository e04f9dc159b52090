# SPDX-License-Identifier: MIT
"""Every rule a request is held against, in both layouts, and what the answers look like."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.block.blk import (
    BARRIER,
    DISCARD,
    EOPNOTSUPP,
    ERROR,
    FLUSH,
    INDIRECT,
    LAYOUT_32,
    LAYOUT_64,
    OKAY,
    READ,
    WRITE,
    FakeDisk,
    Layout,
    bench,
)

MAX64 = 2**64 - 1
BOTH = pytest.mark.parametrize("layout", [LAYOUT_64, LAYOUT_32], ids=["x86_64", "x86_32"])
PAGE0 = [(100, 0, 7)]
SECTORS = 128


@BOTH
def test_block_read_and_write_valid_move_the_sectors_asked_for(layout: Layout) -> None:
    """Segments of odd sizes land at the right place of the disk and of the guest's pages."""
    with bench(layout=layout) as it:
        it.disk.data[512:1536] = b"a" * 512 + b"b" * 512
        it.hypervisor.page(18)[:4096] = b"w" * 4096
        it.frontend.put(READ, 1, 1, [(100, 3, 3), (101, 0, 0)])
        it.frontend.put(WRITE, 2, 127, [(102, 7, 7)])

        assert it.serve() == [(1, READ, OKAY), (2, WRITE, OKAY)]
        assert bytes(it.hypervisor.page(16)) == bytes(1536) + b"a" * 512 + bytes(2048)
        assert bytes(it.hypervisor.page(17)) == b"b" * 512 + bytes(3584)
        assert bytes(it.disk.data[-512:]) == b"w" * 512
        counters = it.counters()
        assert (counters["rd_req"], counters["rd_sect"]) == (1, 2)
        assert (counters["wr_req"], counters["wr_sect"]) == (1, 1)


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("no segments", {"operation": READ, "segments": []}, "bad_segments"),
    ("12 segments", {"operation": READ, "segments": PAGE0 * 11, "count": 12}, "bad_segments"),
    ("255 segments", {"operation": WRITE, "segments": PAGE0 * 11, "count": 255}, "bad_segments"),
    ("first > last", {"operation": READ, "segments": [(100, 4, 3)]}, "bad_segments"),
    ("last 8", {"operation": READ, "segments": [(100, 0, 8)]}, "bad_segments"),
    ("last 255", {"operation": WRITE, "segments": [(100, 255, 255)]}, "bad_segments"),
    ("past the end", {"operation": READ, "segments": PAGE0, "sector": SECTORS}, "bad_range"),
    ("1 past the end", {"operation": READ, "segments": PAGE0, "sector": 121}, "bad_range"),
    ("sum wraps", {"operation": WRITE, "segments": PAGE0, "sector": MAX64 - 6}, "bad_range"),
    ("bytes wrap", {"operation": READ, "segments": PAGE0, "sector": 2**55}, "bad_range"),
    ("flush with data", {"operation": FLUSH, "segments": PAGE0}, "bad_segments"),
    ("discard of 0", {"operation": DISCARD, "count": 0, "sectors": 0}, "bad_discard"),
    ("secure discard", {"operation": DISCARD, "count": 1, "sectors": 8}, "bad_discard"),
    ("discard too long", {"operation": DISCARD, "count": 0, "sectors": 129}, "bad_range"),
    ("discard wraps", {"operation": DISCARD, "sector": 8, "sectors": MAX64 - 6}, "bad_range"),
]


@BOTH
@pytest.mark.parametrize(("request_", "counter"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_block_request_invalid_is_answered_with_an_error(
    layout: Layout, request_: dict[str, Any], counter: str
) -> None:
    """A broken rule is an error of that request alone, counted under its reason."""
    with bench(layout=layout) as it:
        it.frontend.put(ident=5, **request_)
        it.frontend.put(READ, 6, 0, PAGE0)

        assert it.serve() == [(5, request_["operation"], ERROR), (6, READ, OKAY)]
        assert it.counters()[counter] == 1
        assert it.disk.calls == ["read"]


@BOTH
@pytest.mark.parametrize("operation", [BARRIER, 4, INDIRECT, 7, 255])
def test_block_request_unknown_operation_is_not_supported(layout: Layout, operation: int) -> None:
    """Operations that were never offered are told apart from bad requests."""
    with bench(layout=layout) as it:
        it.frontend.put(operation, MAX64, 0, PAGE0)

        assert it.serve() == [(MAX64, operation, EOPNOTSUPP)]
        assert it.counters()["bad_operation"] == 1


@pytest.mark.parametrize("operation", [FLUSH, DISCARD])
def test_block_request_feature_off_is_not_supported(operation: int) -> None:
    """Flush and discard that were not offered are refused as unknown operations are."""
    with bench(flush=0, discard=0) as it:
        it.frontend.put(operation, 1, 0, sectors=8, count=0)

        assert it.serve() == [(1, operation, EOPNOTSUPP)]
        assert it.disk.calls == []


def test_block_request_on_read_only_disk_does_not_write() -> None:
    """Writes and discards of a read-only disk fail; reads and flushes work."""
    with bench(read_only=1) as it:
        it.frontend.put(WRITE, 1, 0, PAGE0)
        it.frontend.put(DISCARD, 2, 0, sectors=8, count=0)
        it.frontend.put(READ, 3, 0, PAGE0)
        it.frontend.put(FLUSH, 4)

        assert [status for _, _, status in it.serve()] == [ERROR, ERROR, OKAY, OKAY]
        assert it.counters()["read_only"] == 2
        assert it.disk.calls == ["read", "flush"]


def test_block_request_unaligned_to_large_sectors_is_refused() -> None:
    """On a disk of 4 KiB sectors a request of 512 bytes is an error, not rounded."""
    with bench(sector_size=4096) as it:
        it.frontend.put(READ, 1, 1, PAGE0)
        it.frontend.put(READ, 2, 8, [(100, 0, 0)])
        it.frontend.put(READ, 3, 8, PAGE0)

        assert [status for _, _, status in it.serve()] == [ERROR, ERROR, OKAY]
        assert it.counters()["bad_alignment"] == 2


def test_block_flush_and_discard_reach_the_disk() -> None:
    """Flush flushes whatever its sector says, discard clears exactly its range."""
    with bench() as it:
        it.disk.data[:] = b"x" * it.disk.size
        it.frontend.put(FLUSH, 1, MAX64)
        it.frontend.put(DISCARD, 2, 2, sectors=3, count=0)

        assert it.serve() == [(1, FLUSH, OKAY), (2, DISCARD, OKAY)]
        assert it.disk.calls == ["flush", "discard"]
        assert bytes(it.disk.data[:3072]) == b"x" * 1024 + bytes(1536) + b"x" * 512
        counters = it.counters()
        assert (counters["f_req"], counters["ds_req"], counters["ds_sect"]) == (1, 1, 3)


@BOTH
@pytest.mark.parametrize("operation", [READ, 99])
def test_block_response_leaves_the_rest_of_the_slot_alone(layout: Layout, operation: int) -> None:
    """A response is its own bytes, padding zero; not one more byte of the slot is touched."""
    with bench(layout=layout) as it:
        it.frontend.put(operation, 0x1122334455667788, 0, PAGE0)
        before = bytes(it.frontend.slot(0))
        it.serve()
        after = bytes(it.frontend.slot(0))

        status = OKAY if operation == READ else EOPNOTSUPP
        expected = (
            (0x1122334455667788).to_bytes(8, "little")
            + bytes([operation, 0])
            + status.to_bytes(2, "little", signed=True)
        ).ljust(layout.response, b"\0")
        assert after[: layout.response] == expected
        assert after[layout.response :] == before[layout.response :]


@pytest.mark.parametrize(("operation", "error"), [(READ, 5), (WRITE, 28), (FLUSH, 5)])
def test_block_disk_error_fails_the_request_and_keeps_the_errno(operation: int, error: int) -> None:
    """EIO or ENOSPC of the disk becomes an error answer; the number is kept for the report."""
    with bench(disk=FakeDisk(fail=lambda _o, _a: error)) as it:
        it.frontend.put(operation, 1, 0, PAGE0 if operation != FLUSH else None)

        assert it.serve() == [(1, operation, ERROR)]
        assert it.counters()["io_errors"] == 1
        assert it.counters()["last_errno"] == error


def test_block_discard_unsupported_by_the_disk_says_so() -> None:
    """A disk that turns out not to discard lets the frontend know, which then stops asking."""
    with bench(disk=FakeDisk(fail=lambda _o, _a: 95)) as it:
        it.frontend.put(DISCARD, 1, 0, sectors=8, count=0)

        assert it.serve() == [(1, DISCARD, EOPNOTSUPP)]


def test_block_read_in_small_pieces_is_completed() -> None:
    """A disk that moves a few bytes per call still serves the whole request."""
    disk = FakeDisk(limit=700)
    with bench(disk=disk) as it:
        disk.data[:8192] = bytes(range(256)) * 32
        it.frontend.put(READ, 1, 0, [(100, 0, 7), (105, 0, 7)])

        assert it.serve() == [(1, READ, OKAY)]
        assert bytes(it.hypervisor.page(16)) == bytes(range(256)) * 16
        assert bytes(it.hypervisor.page(21)) == bytes(range(256)) * 16


def test_block_read_past_a_shrunken_image_fails() -> None:
    """An image cut short behind our back gives an error, not old or random bytes."""
    disk = FakeDisk()
    with bench(disk=disk) as it:
        disk.size = 2048
        it.frontend.put(READ, 1, 0, PAGE0)

        assert it.serve() == [(1, READ, ERROR)]
        assert it.counters()["short_io"] == 1
        assert not any(it.hypervisor.page(16))
