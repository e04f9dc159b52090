# SPDX-License-Identifier: MIT
"""What runs inline, what goes to I/O threads, and how a device ends with work in flight."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tests.fakes.block.blk import (
    DISCARD,
    EAGAIN,
    ENOTSUP,
    ERROR,
    FLUSH,
    OKAY,
    READ,
    WRITE,
    FakeDisk,
    bench,
)
from worker.devices.block.native._block import lib

PAGE0 = [(100, 0, 7)]
AUTO = lib.BLK_ENGINE_AUTO


def test_block_engine_sync_runs_everything_in_the_ring_thread() -> None:
    """No thread is started, and no call is made that could say it would block."""
    with bench() as it:
        for operation in (READ, WRITE):
            it.frontend.put(operation, 1, 0, PAGE0)
        it.frontend.put(FLUSH, 1)
        it.serve()

        assert it.disk.calls == ["read", "write", "flush"]
        assert it.disk.threads == {threading.get_ident()}
        assert it.counters()["io_threads"] == 0


def test_block_engine_auto_serves_the_page_cache_inline() -> None:
    """What does not block needs no thread."""
    with bench(engine=AUTO) as it:
        it.frontend.put(READ, 1, 0, PAGE0)
        it.frontend.put(WRITE, 2, 0, PAGE0)

        assert it.serve() == [(1, READ, OKAY), (2, WRITE, OKAY)]
        assert it.disk.calls == ["read nowait", "write nowait"]
        assert it.counters()["io_threads"] == 0


def test_block_engine_auto_gives_what_would_block_to_threads() -> None:
    """EAGAIN, flush and discard go to threads; never more of those than allowed."""
    disk = FakeDisk(nowait=lambda _o, _a: EAGAIN)
    with bench(disk=disk, engine=AUTO, io_threads=2) as it:
        for ident in range(6):
            it.frontend.put(READ if ident % 2 else WRITE, ident, 8 * ident, PAGE0)
        it.frontend.put(FLUSH, 6)
        it.frontend.put(DISCARD, 7, 0, sectors=8, count=0)

        assert [status for _, _, status in it.serve_all(8)] == [OKAY] * 8
        assert it.counters()["pooled"] == 8
        # One may be so quick that no second is needed.
        assert 1 <= it.counters()["io_threads"] <= 2
        assert it.counters()["in_flight"] == 0


def test_block_engine_auto_remembers_that_writes_cannot_be_asked() -> None:
    """On a file system without nowait writes they are done inline, and asked for once."""
    disk = FakeDisk(nowait=lambda operation, _a: ENOTSUP if operation == "write" else 0)
    with bench(disk=disk, engine=AUTO) as it:
        for ident in range(3):
            it.frontend.put(WRITE, ident, 0, PAGE0)
        it.serve()

        assert disk.calls == ["write nowait", "write", "write", "write"]
        assert it.counters()["pooled"] == 0


def test_block_engine_auto_sends_reads_to_threads_where_they_cannot_be_asked() -> None:
    """A file system without nowait reads may block for long, so threads do them all."""
    disk = FakeDisk(nowait=lambda _o, _a: ENOTSUP)
    with bench(disk=disk, engine=AUTO) as it:
        for ident in range(3):
            it.frontend.put(READ, ident, 0, PAGE0)

        assert it.serve_all(3) == [(ident, READ, OKAY) for ident in range(3)]
        assert disk.calls == ["read nowait", "read", "read", "read"]


def test_block_engine_direct_io_uses_threads_for_everything() -> None:
    """Nothing of a disk without page cache is tried inline."""
    with bench(engine=AUTO, direct_io=1) as it:
        it.frontend.put(READ, 1, 0, PAGE0)
        it.frontend.put(WRITE, 2, 0, PAGE0)

        assert len(it.serve_all(2)) == 2
        assert sorted(it.disk.calls) == ["read", "write"]
        assert threading.get_ident() not in it.disk.threads


def test_block_engine_partial_nowait_read_is_done_again_by_a_thread() -> None:
    """Half of the pages in the cache: the whole request is read anew, and is right."""
    disk = FakeDisk(limit=512)
    with bench(disk=disk, engine=AUTO) as it:
        disk.data[:4096] = bytes(range(256)) * 16
        it.frontend.put(READ, 1, 0, PAGE0)

        assert it.serve_all(1) == [(1, READ, OKAY)]
        assert bytes(it.hypervisor.page(16)) == bytes(range(256)) * 16


def test_block_engine_error_in_a_thread_is_answered() -> None:
    """An I/O error found by a thread reaches the guest as any other."""
    disk = FakeDisk(fail=lambda _o, _a: 5)
    with bench(disk=disk, engine=AUTO, direct_io=1) as it:
        it.frontend.put(READ, 1, 0, PAGE0)

        assert it.serve_all(1) == [(1, READ, ERROR)]
        assert it.counters()["last_errno"] == 5


def test_block_detach_answers_what_is_in_flight_first() -> None:
    """A detach waits for the disk and publishes; what was not taken stays in the ring."""
    disk = FakeDisk()
    with bench(disk=disk, engine=AUTO, direct_io=1, persistent=True) as it:
        disk.gate.clear()
        it.frontend.put(READ, 1, 0, PAGE0)
        it.frontend.push()
        it.run()
        it.frontend.put(READ, 2, 0, PAGE0)
        it.frontend.push()
        timer = threading.Timer(0.02, disk.gate.set)
        timer.start()

        assert it.detach() == 0
        timer.join()
        assert it.frontend.answers() == [(1, READ, OKAY)]
        assert it.hypervisor.mapped == {}


def test_block_detach_from_a_dead_disk_gives_up_without_unmapping() -> None:
    """A disk that does not answer keeps its pages: it may still write there."""
    disk = FakeDisk()
    with bench(disk=disk, engine=AUTO, direct_io=1, persistent=True) as it:
        disk.gate.clear()
        it.frontend.put(READ, 1, 0, PAGE0)
        it.frontend.push()
        it.run()

        assert it.detach(10) == -110
        assert len(it.hypervisor.mapped) == 1
        disk.gate.set()
        assert it.detach() == 0


@pytest.mark.parametrize("engine", [AUTO, lib.BLK_ENGINE_SYNC], ids=["auto", "sync"])
@pytest.mark.parametrize("persistent", [False, True], ids=["copy", "persistent"])
def test_block_file_holds_what_was_written(tmp_path: Path, engine: int, persistent: bool) -> None:
    """On a real file: write, flush, read back, discard leaves a hole of zeroes."""
    path = tmp_path / "image"
    path.write_bytes(b"\xff" * 65536)
    fd = os.open(path, os.O_RDWR)
    try:
        with bench(fd=fd, engine=engine, persistent=persistent) as it:
            it.hypervisor.page(16)[:] = b"A" * 4096
            it.hypervisor.page(17)[:] = b"B" * 4096
            it.frontend.put(WRITE, 1, 8, [(100, 0, 7), (101, 0, 7)])
            it.frontend.put(FLUSH, 2)
            assert [s for _, _, s in it.serve_all(2)] == [OKAY, OKAY]
            it.frontend.put(READ, 3, 15, [(102, 0, 1)])
            it.frontend.put(DISCARD, 4, 64, sectors=64, count=0)
            assert [s for _, _, s in it.serve_all(2)] == [OKAY, OKAY]
            assert bytes(it.hypervisor.page(18)[:1024]) == b"A" * 512 + b"B" * 512
    finally:
        os.close(fd)
    content = path.read_bytes()
    assert content[4096:12288] == b"A" * 4096 + b"B" * 4096
    assert content[32768:] == bytes(32768)
    assert len(content) == 65536


def test_block_open_without_a_file_says_why() -> None:
    """A descriptor that is none is an error, not a crash."""
    with pytest.raises(AssertionError), bench(fd=-1):
        pass
