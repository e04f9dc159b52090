# SPDX-License-Identifier: MIT
"""A disk that changes while its guest works (F20, F26): smaller, larger, another one.

The size that was published bounds every request until the next connection, whatever the file does.
An image that shrinks under a whole xenbackd is in test_bad_input_image.py.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.messages import Attached, Disconnect, Disconnected, Init, Initialise, Initialised
from tests.fakes.block.blk import DISCARD, ERROR, FLUSH, OKAY, READ, WRITE, FakeDisk, bench
from tests.fakes.block.worker_bench import DEADLINE, Guest, worker_bench
from worker.devices.block.guest.ring import REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD
from worker.devices.block.native._block import lib

SIZE = 64 * 1024
SLOTS = 32
ENGINES = pytest.mark.parametrize(
    "engine", [lib.BLK_ENGINE_AUTO, lib.BLK_ENGINE_SYNC], ids=["auto", "sync"]
)
GRANTS = pytest.mark.parametrize("persistent", [False, True], ids=["copy", "persistent"])


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """An image of `SIZE` bytes, all 0xff."""
    path = tmp_path / "image"
    path.write_bytes(b"\xff" * SIZE)
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


@GRANTS
def test_f26_disk_cut_below_requests_in_flight_answers_each_of_them(persistent: bool) -> None:
    """The disk shrinks while requests below and beyond its new end are with it: those beyond fail,
    the others work, no page gets a byte that was not read, and the ring goes on."""
    disk = FakeDisk()
    with bench(
        disk=disk, engine=lib.BLK_ENGINE_AUTO, direct_io=1, persistent=persistent, io_threads=4
    ) as it:
        disk.data[:] = b"d" * disk.size
        disk.gate.clear()
        for n in range(16):
            it.hypervisor.page(16 + n)[:] = b"\x5e" * 4096
            it.frontend.put(READ, n, 8 * n, [(100 + n, 0, 7)])
        it.frontend.push()
        it.run()
        assert it.counters()["in_flight"] == 16
        disk.size = 6 * 4096 + 512  # one request lies across the new end
        disk.gate.set()

        statuses = {ident: status for ident, _, status in it.serve_all(16)}
        assert statuses == {n: OKAY if n < 6 else ERROR for n in range(16)}
        for n in range(7, 16):
            assert bytes(it.hypervisor.page(16 + n)) == b"\x5e" * 4096
        assert it.counters()["short_io"] == 10
        it.frontend.put(READ, 99, 0, [(100, 0, 7)])
        assert it.serve_all(1) == [(99, READ, OKAY)]


@ENGINES
@GRANTS
def test_f26_file_of_another_size_is_held_to_the_size_published(
    file: int, engine: int, persistent: bool
) -> None:
    """Cut in half, a read beyond fails and a write brings the file back to no more than it was;
    doubled, nothing beyond the published end is reached."""
    with bench(fd=file, engine=engine, persistent=persistent) as it:
        os.ftruncate(file, SIZE // 2)
        it.frontend.put(READ, 1, 64, [(100, 0, 7)])
        it.frontend.put(READ, 2, 60, [(101, 0, 7)])  # across the new end
        it.frontend.put(READ, 3, 0, [(102, 0, 7)])
        it.frontend.put(DISCARD, 4, 96, sectors=32, count=0)
        it.frontend.put(FLUSH, 5)
        statuses = {ident: status for ident, _, status in it.serve_all(5)}
        assert statuses == {1: ERROR, 2: ERROR, 3: OKAY, 4: OKAY, 5: OKAY}
        assert os.fstat(file).st_size == SIZE // 2
        it.frontend.put(WRITE, 6, 120, [(103, 0, 7)])
        it.serve_all(1)
        assert os.fstat(file).st_size <= SIZE

        os.ftruncate(file, 2 * SIZE)
        os.pwrite(file, b"next" * (SIZE // 4), SIZE)
        for ident, (operation, sector) in enumerate(
            [(READ, 128), (WRITE, 128), (WRITE, 121), (READ, 255), (WRITE, 256)]
        ):
            it.frontend.put(operation, ident, sector, [(100, 0, 7)])
        it.frontend.put(DISCARD, 5, 120, sectors=9, count=0)
        assert {status for _, _, status in it.serve_all(6)} == {ERROR}
        assert os.pread(file, SIZE, SIZE) == b"next" * (SIZE // 4)


@ENGINES
def test_f20_discard_of_odd_pieces_takes_exactly_those(file: int, engine: int) -> None:
    """A file system gives whole blocks back; what of the range is less than one is zeroed, and not
    a byte beside it."""
    with bench(fd=file, engine=engine) as it:
        expected = bytearray(b"\xff" * SIZE)
        for sector, count in [(1, 1), (7, 2), (15, 17), (127, 1), (63, 3)]:
            it.frontend.put(DISCARD, sector, sector, sectors=count, count=0)
            expected[sector * 512 : (sector + count) * 512] = bytes(count * 512)
        assert {status for _, _, status in it.serve_all(5)} == {OKAY}

        assert os.pread(file, SIZE + 1, 0) == bytes(expected)


def test_f26_medium_changed_with_requests_in_flight_keeps_them_on_the_old_one() -> None:
    """The guest fills its ring while the operator changes the disc: each write that was answered is
    on the old image and none on the new one; what the guest writes after it connected anew is on
    the new one only. The worker is the same."""
    with worker_bench() as it:
        other = it.directory / "other.img"
        other.write_bytes(os.urandom(1 << 20))
        new = bytearray(other.read_bytes())
        guest, worker = it.guest(persistent=False), it.worker()
        worker.serve(it.backend, guest)
        with it.image.open("rb") as old:
            for n in range(SLOTS):
                submit_write(guest, n)
            other.replace(it.image)
            worker.ask(Disconnected, Disconnect)
            answered = [answer(guest) for _ in range(guest.ring.index(RSP_PROD))]
            assert answered == [(n, OKAY) for n in range(len(answered))]
            for n, _ in answered:
                old.seek(4096 * n)
                assert old.read(4096) == bytes([n]) * 4096
            assert it.image.read_bytes() == bytes(new)
            content = os.pread(old.fileno(), 1 << 20, 0)

            connect_anew(guest, len(answered))
            worker.ask(Initialised, Init, backend=it.backend)
            nodes = guest.nodes
            worker.ask(Attached, Initialise, backend=it.backend, frontend=nodes, resume=False)
            submit_write(guest, SLOTS)
            assert guest.ring.raw_wait(DEADLINE)
            assert answer(guest) == (SLOTS, OKAY)
            new[4096 * SLOTS : 4096 * (SLOTS + 1)] = bytes([SLOTS]) * 4096
            assert it.image.read_bytes() == bytes(new)
            assert os.pread(old.fileno(), 1 << 20, 0) == content


def submit_write(guest: Guest, n: int) -> None:
    """A write of 4 KiB, all bytes `n`, to the n-th page of the disk."""
    [frame] = guest.domain.alloc_pages(1)
    guest.domain.page(frame)[:] = bytes([n]) * 4096
    head = struct.pack("<BBHxxxxQQ", WRITE, 1, 0, n, 8 * n)
    guest.ring.raw_submit(head + struct.pack("<IBBxx", guest.domain.grant(frame), 0, 7))


def answer(guest: Guest) -> tuple[int, int]:
    """Id and status of the next response."""
    response = guest.ring.raw_response()
    assert response is not None
    ident, _, status = struct.unpack_from("<QBxh", response)
    return ident, status


def connect_anew(guest: Guest, answered: int) -> None:
    """Make the ring an empty one that begins where the frontend's own count stands."""
    for index in (REQ_PROD, RSP_PROD):
        guest.ring.poke(index, SLOTS)
    for index in (REQ_EVENT, RSP_EVENT):
        guest.ring.poke(index, SLOTS + 1)
    for _ in range(SLOTS - answered):
        guest.ring.raw_response()  # never answered; the frontend forgets them
