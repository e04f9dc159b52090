# SPDX-License-Identifier: MIT
"""Memory of ours that a guest's data goes through (F23, F36): bounded, whole, given back."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.block.blk import ERROR, OKAY, READ, WRITE, bench
from tests.fakes.block.blkrules import RecordingDisk
from tests.fakes.hv import PORT, FakeHypervisor
from tests.fakes.waiting import wait_until
from worker.devices.block.native._block import lib

BATCH_SEGMENTS = 32 * 11
FULL = [(100 + n, 0, 7) for n in range(11)]
GRANTS = pytest.mark.parametrize("persistent", [False, True], ids=["copy", "persistent"])


def test_f23_reads_that_end_all_at_once_are_copied_in_bounded_calls() -> None:
    """Sixty-four reads of eleven pages each come back from the disk together: twice what one call
    to the hypervisor may hold; every page gets its data."""
    disk = RecordingDisk(1 << 20)
    with bench(disk=disk, order=2, engine=lib.BLK_ENGINE_AUTO, direct_io=1, io_threads=8) as it:
        disk.data[:] = b"d" * disk.size
        disk.gate.clear()
        for ident in range(64):
            it.frontend.put(READ, ident, ident, FULL)
        it.frontend.push()
        while it.counters()["in_flight"] < 64:
            assert it.run() == lib.BLK_TIMEOUT
        disk.gate.set()
        wait_until(lambda: len(disk.seen) == 64, "the disk")

        assert it.serve_all(64) == [(ident, READ, OKAY) for ident in range(64)]
        assert max(it.hypervisor.copies) <= BATCH_SEGMENTS
        assert sum(it.hypervisor.copies) == 64 * 11
        for page in range(16, 27):
            assert bytes(it.hypervisor.page(page)) == b"d" * 4096


def test_f23_idle_worker_keeps_the_buffers_that_are_in_use() -> None:
    """What an idle disk gives back to the host is not the data of a write the disk still has."""
    disk = RecordingDisk()
    with bench(disk=disk, engine=lib.BLK_ENGINE_AUTO, direct_io=1) as it:
        it.hypervisor.page(16)[:] = b"w" * 4096
        disk.gate.clear()
        it.frontend.put(WRITE, 1, 0, [(100, 0, 7)])
        it.frontend.push()
        for _ in range(4):
            assert it.run(1) == lib.BLK_TIMEOUT
        disk.gate.set()

        assert it.serve_all(1) == [(1, WRITE, OKAY)]
        assert bytes(disk.data[:4096]) == b"w" * 4096


@GRANTS
def test_f36_connecting_hundreds_of_times_keeps_memory_and_mappings(persistent: bool) -> None:
    """Each connection with I/O, good and bad, then detached: not one buffer or page stays."""
    with bench(attach=False) as it:
        sizes = []
        for cycle in range(300):
            assert it.attach(persistent=persistent) == 0
            it.frontend.put(READ, cycle, 0, FULL)
            it.frontend.put(READ, cycle, 0, [(9999, 0, 7)])
            it.frontend.put(WRITE, cycle, 1 << 40, FULL)
            assert [status for _, _, status in it.serve()] == [OKAY, ERROR, ERROR]
            assert it.detach() == 0
            assert it.hypervisor.mapped == {}
            sizes.append(int(Path("/proc/self/statm").read_text().split()[0]))
        # Buffers are 2.75 MiB of addresses; all of them kept would be 800 MiB.
        assert sizes[-1] - sizes[10] < 4096


@GRANTS
def test_f23_bad_pages_count_once_per_request(persistent: bool) -> None:
    """Two bad pages of one read and of one write: an error each."""
    with bench(persistent=persistent) as it:
        for ident, operation in enumerate((READ, WRITE)):
            it.frontend.put(operation, ident, 0, [(8888, 0, 7), (100, 0, 7), (9999, 0, 7)])

        assert [status for _, _, status in it.serve()] == [ERROR, ERROR]
        assert it.counters()["grant_errors"] == 2


def test_f23_good_pages_are_mapped_although_a_bad_one_is_beside_them() -> None:
    """One bad reference in a batch does not take the speed of mapping from all the others."""
    with bench(persistent=True) as it:
        it.frontend.put(READ, 1, 0, [(100, 0, 7), (9999, 0, 7), (101, 0, 7)])
        it.frontend.put(READ, 2, 0, [(102, 0, 7)])

        assert [status for _, _, status in it.serve()] == [ERROR, OKAY]
        assert it.hypervisor.map_calls == [([100, 9999, 101, 102], True), ([100, 101, 102], True)]
        assert it.counters()["persistent_grants"] == 3


class BrokenCopies(FakeHypervisor):
    """Copy calls fail as a whole; `told` is what they leave in the elements, None: nothing."""

    def __init__(self, result: int, told: int | None) -> None:
        self.result, self.told = result, told
        super().__init__(96)

    def _copy(self, _: Any, domid: int, elements: Any, count: int) -> int:
        for i in range(count):
            if self.told is not None:
                elements[i].status = self.told
        return self.result


@pytest.mark.parametrize(("result", "told"), [(-errno.EFAULT, 0), (-errno.EFAULT, None), (0, None)])
def test_f23_copy_that_does_not_say_it_worked_has_failed(result: int, told: int | None) -> None:
    """XSA-361: a call that fails, or is silent about an element, is never taken for success; no
    buffer's old content reaches the disk."""
    with bench(hypervisor=BrokenCopies(result, told)) as it:
        it.frontend.put(READ, 1, 0, [(100, 0, 7)])
        it.frontend.put(WRITE, 2, 0, [(100, 0, 7)])

        assert [status for _, _, status in it.serve()] == [ERROR, ERROR]
        assert it.counters()["grant_errors"] == 2
        assert it.disk.calls == ["read"]


class Deaf(FakeHypervisor):
    """The guest has closed its port."""

    def _notify(self, _: Any, port: int) -> int:
        super()._notify(_, port)
        return -errno.ENOTCONN


def test_f14_guest_that_closed_its_port_is_served_and_counted() -> None:
    """Nobody hears the events any more; the ring is served as long as it lasts."""
    with bench(hypervisor=Deaf(96)) as it:
        it.frontend.write_index(12, 1)
        it.frontend.put(READ, 1, 0, [(100, 0, 7)])

        assert it.serve() == [(1, READ, OKAY)]
        assert it.hypervisor.notified == [PORT]
        assert it.counters()["notify_errors"] == 1
