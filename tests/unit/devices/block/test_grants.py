# SPDX-License-Identifier: MIT
"""Guest pages: kept mapped, or copied; and what happens when they cannot be had."""

from __future__ import annotations

import pytest

from tests.fakes.block.blk import ERROR, OKAY, READ, WRITE, FakeDisk, bench
from worker.devices.block.native._block import lib

MODES = pytest.mark.parametrize("persistent", [False, True], ids=["copy", "persistent"])


def test_block_copy_takes_one_call_per_batch() -> None:
    """All segments of all writes are one copy before the disk, those of reads one after."""
    with bench() as it:
        for ident in range(10):
            it.frontend.put(READ if ident % 2 else WRITE, ident, 8 * ident, [(100 + ident, 0, 7)])
        it.frontend.put(WRITE, 10, 0, [(100 + n, 0, 0) for n in range(11)])
        it.serve()

        assert it.hypervisor.copies == [16, 5]
        assert it.hypervisor.map_calls == []


def test_block_persistent_maps_a_page_once() -> None:
    """What a batch is the first to use is mapped in one call; later use costs nothing."""
    with bench(persistent=True) as it:
        for ident in range(3):
            it.frontend.put(READ, ident, 0, [(100 + ident, 0, 7), (105, 0, 0)])
        it.serve()
        it.frontend.put(WRITE, 3, 0, [(102, 0, 7), (100, 0, 7), (106, 1, 1)])
        it.serve()

        assert it.hypervisor.map_calls == [([100, 105, 101, 102], True), ([106], True)]
        assert it.hypervisor.copies == []
        assert it.counters()["persistent_grants"] == 5


def test_block_persistent_full_table_falls_back_to_copy() -> None:
    """Beyond the maximum pages are copied, and every byte still arrives."""
    with bench(persistent=True, max_persistent=2) as it:
        it.disk.data[:12288] = b"1" * 4096 + b"2" * 4096 + b"3" * 4096
        it.frontend.put(READ, 1, 0, [(100, 0, 7), (101, 0, 7), (102, 0, 7)])

        assert it.serve() == [(1, READ, OKAY)]
        assert it.hypervisor.copies == [1]
        assert it.counters()["persistent_grants"] == 2
        assert [bytes(it.hypervisor.page(n)[:1]) for n in (16, 17, 18)] == [b"1", b"2", b"3"]


def test_block_detach_gives_every_mapping_back() -> None:
    """After the detach nothing of the guest's is mapped, whatever was in use."""
    with bench(persistent=True) as it:
        for ident in range(20):
            it.frontend.put(READ, ident, 0, [(100 + ident, 0, 7)])
            it.serve()
        assert sum(it.hypervisor.mapped.values()) == 20

        assert it.detach() == 0
        assert it.hypervisor.mapped == {}
        assert it.counters()["persistent_grants"] == 0


@MODES
def test_block_grant_bad_fails_its_own_request_only(persistent: bool) -> None:
    """A page that was not granted fails the request that names it; its neighbours work."""
    with bench(persistent=persistent) as it:
        it.disk.data[:4096] = b"d" * 4096
        it.frontend.put(READ, 1, 0, [(100, 0, 7)])
        it.frontend.put(READ, 2, 0, [(101, 0, 7), (9999, 0, 7)])
        it.frontend.put(WRITE, 3, 8, [(8888, 0, 7)])
        it.frontend.put(WRITE, 4, 16, [(102, 0, 7)])

        statuses = [status for _, _, status in it.serve()]
        assert statuses == [OKAY, ERROR, ERROR, OKAY]
        assert it.counters()["grant_errors"] == 2
        assert bytes(it.hypervisor.page(16)) == b"d" * 4096
        assert it.disk.calls.count("write") == 1


@MODES
def test_block_grant_read_only_fails_a_read_and_serves_a_write(persistent: bool) -> None:
    """A read must write to the guest's page, so a read-only grant fails; a write need not."""
    with bench(persistent=persistent) as it:
        it.disk.data[:4096] = b"d" * 4096
        it.hypervisor.grant(500, 20, writable=False)
        it.hypervisor.page(20)[:] = b"g" * 4096
        it.frontend.put(READ, 1, 0, [(500, 0, 7)])
        it.frontend.put(WRITE, 2, 8, [(500, 0, 7)])

        assert [status for _, _, status in it.serve()] == [ERROR, OKAY]
        assert bytes(it.hypervisor.page(20)) == b"g" * 4096
        assert bytes(it.disk.data[4096:8192]) == b"g" * 4096


def test_block_grant_bad_is_tried_once() -> None:
    """Repeating a bad reference costs no further map calls."""
    with bench(persistent=True) as it:
        for ident in range(5):
            it.frontend.put(READ, ident, 0, [(9999, 0, 7)])
            it.serve()

        assert it.hypervisor.map_calls == [([9999], True)]


def test_block_map_failing_on_the_host_falls_back_to_copy() -> None:
    """A host that can map nothing more still serves the guest."""
    with bench(persistent=True) as it:
        it.hypervisor.map_error = 12
        it.frontend.put(READ, 1, 0, [(100, 0, 7)])

        assert it.serve() == [(1, READ, OKAY)]
        assert it.hypervisor.copies == [1]


def test_block_same_page_in_all_segments_is_mapped_once() -> None:
    """A request may name one page eleven times."""
    with bench(persistent=True) as it:
        it.frontend.put(READ, 1, 0, [(100, 0, 7)] * 11)

        assert it.serve() == [(1, READ, OKAY)]
        assert it.hypervisor.map_calls == [([100], True)]


def test_block_copy_buffers_used_up_leaves_requests_in_the_ring() -> None:
    """With all buffers under way nothing more is taken; nothing spins, nothing is lost."""
    disk = FakeDisk()
    with bench(disk=disk, order=2, engine=lib.BLK_ENGINE_AUTO, direct_io=1) as it:
        disk.gate.clear()
        for ident in range(100):
            it.frontend.put(READ, ident, 0, [(100, 0, 7)])
        it.frontend.push()
        for _ in range(5):
            it.run(1)
        assert it.counters()["in_flight"] == 64

        disk.gate.set()
        assert it.serve_all(100) == [(ident, READ, OKAY) for ident in range(100)]


def test_block_sealed_serves_what_is_mapped_and_refuses_every_other_page() -> None:
    """Once enough references were seen nothing is mapped or copied, for whatever is asked."""
    with bench(persistent=True, max_persistent=2) as it:
        it.frontend.put(READ, 1, 0, [(100, 0, 7)])
        it.serve()
        assert not it.status().sealable
        it.frontend.put(READ, 2, 0, [(101, 0, 7)])
        it.serve()
        assert it.status().sealable
        lib.blk_seal(it.device)
        calls = (list(it.hypervisor.map_calls), list(it.hypervisor.copies))

        it.frontend.put(READ, 3, 0, [(100, 0, 7), (101, 0, 7)])
        it.frontend.put(READ, 4, 0, [(102, 0, 7)])
        it.frontend.put(WRITE, 5, 0, [(101, 0, 7), (9999, 0, 7)])
        it.frontend.put(WRITE, 6, 0, [(101, 0, 7)])
        answers = it.serve()
        assert sorted(answers) == [
            (3, READ, OKAY),
            (4, READ, ERROR),
            (5, WRITE, ERROR),
            (6, WRITE, OKAY),
        ]
        assert (it.hypervisor.map_calls, it.hypervisor.copies) == calls
        assert it.counters()["grant_errors"] == 2
        assert not it.status().sealable

        assert it.detach() == 0
        assert sum(it.hypervisor.mapped.values()) == 0


def test_block_without_persistent_grants_is_never_sealable() -> None:
    """Whoever has to copy can never do without."""
    with bench(max_persistent=2) as it:
        for ident in range(4):
            it.frontend.put(READ, ident, 0, [(100 + ident, 0, 7)])
        it.serve()
        assert not it.status().sealable
