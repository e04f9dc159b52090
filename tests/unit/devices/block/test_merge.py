# SPDX-License-Identifier: MIT
"""Neighbouring requests go to the disk together, and fail apart."""

from __future__ import annotations

import pytest

from tests.fakes.block.blk import EIO, ENOTSUP, ERROR, OKAY, READ, WRITE, Bench, FakeDisk, bench
from worker.devices.block.native._block import lib

AUTO = lib.BLK_ENGINE_AUTO
CONTENT = bytes(range(256)) * 64


def put_pages(it: Bench, operation: int, count: int, first: int = 0) -> None:
    """One request of a page for each of `count` pages of the disk in a row."""
    for n in range(first, first + count):
        it.frontend.put(operation, n, 8 * n, [(100 + n, 0, 7)])


def guest_bytes(it: Bench, count: int) -> bytes:
    """What the first data pages hold."""
    return b"".join(bytes(it.hypervisor.page(16 + n)) for n in range(count))


@pytest.mark.parametrize("persistent", [False, True], ids=["copy", "persistent"])
def test_block_merge_reads_in_a_row_are_one_call(persistent: bool) -> None:
    """Each page gets its own part of what one call read."""
    with bench(engine=AUTO, persistent=persistent) as it:
        it.disk.data[: len(CONTENT)] = CONTENT
        put_pages(it, READ, 4)

        assert it.serve() == [(n, READ, OKAY) for n in range(4)]
        assert it.disk.calls == ["read nowait"]
        assert guest_bytes(it, 4) == CONTENT
        assert it.counters()["merged"] == 4


def test_block_merge_writes_that_cannot_be_asked_are_one_blocking_call() -> None:
    """Where the file system knows no nowait writes, neighbours still go together."""
    disk = FakeDisk(nowait=lambda _o, _a: ENOTSUP)
    with bench(disk=disk, engine=AUTO) as it:
        for n in range(3):
            it.hypervisor.page(16 + n)[:] = bytes([n + 1]) * 4096
        put_pages(it, WRITE, 3)

        assert it.serve() == [(n, WRITE, OKAY) for n in range(3)]
        assert disk.calls == ["write nowait", "write"]
        assert disk.data[: 3 * 4096] == b"\1" * 4096 + b"\2" * 4096 + b"\3" * 4096


def test_block_merge_that_ends_in_the_middle_runs_the_rest_apart() -> None:
    """What one call moved completely is done; the others are read by calls of their own."""
    disk = FakeDisk(limit=4096 + 512)
    with bench(disk=disk, engine=AUTO) as it:
        disk.data[: len(CONTENT)] = CONTENT
        put_pages(it, READ, 3)

        assert it.serve() == [(n, READ, OKAY) for n in range(3)]
        assert disk.calls == ["read nowait"] * 3
        assert guest_bytes(it, 3) == CONTENT[: 3 * 4096]
        assert it.counters()["merged"] == 1


@pytest.mark.parametrize("operation", [READ, WRITE], ids=["read", "write"])
def test_block_merge_with_a_bad_one_fails_that_one_alone(operation: int) -> None:
    """A merged call has no say about errors: each request is tried by itself."""
    bad = 4096
    disk = FakeDisk(
        nowait=lambda _o, offset: EIO if offset in (0, bad) else 0,
        fail=lambda _o, offset: EIO if offset == bad else 0,
    )
    with bench(disk=disk, engine=AUTO) as it:
        put_pages(it, operation, 3)

        answers = it.serve_all(3)
        assert [status for _, _, status in answers] == [OKAY, ERROR, OKAY]
        assert it.counters()["io_errors"] == 1


def test_block_merge_leaves_out_a_write_whose_page_was_not_granted() -> None:
    """The hole it leaves keeps its neighbours apart, and its data never reaches the disk."""
    with bench(engine=AUTO) as it:
        put_pages(it, WRITE, 1)
        it.frontend.put(WRITE, 1, 8, [(9999, 0, 7)])
        put_pages(it, WRITE, 1, first=2)

        assert [status for _, _, status in it.serve()] == [OKAY, ERROR, OKAY]
        assert it.disk.calls == ["write nowait"] * 2


def test_block_merge_takes_only_what_follows_on() -> None:
    """A gap, a step back or another operation begins a new call."""
    with bench(engine=AUTO) as it:
        for ident, (operation, sector) in enumerate(
            [(READ, 0), (READ, 16), (READ, 8), (WRITE, 16), (READ, 24)]
        ):
            it.frontend.put(operation, ident, sector, [(100 + ident, 0, 7)])
        it.serve()

        assert len(it.disk.calls) == 5
        assert it.counters()["merged"] == 0


def test_block_merge_is_bounded() -> None:
    """The first answer waits for a quarter of a MiB at most: five full requests."""
    with bench(disk=FakeDisk(size=512 * 1024), engine=AUTO) as it:
        for n in range(7):
            it.frontend.put(READ, n, 88 * n, [(100 + 11 * n + s, 0, 7) for s in range(11)])

        assert it.serve() == [(n, READ, OKAY) for n in range(7)]
        assert it.disk.calls == ["read nowait"] * 2
