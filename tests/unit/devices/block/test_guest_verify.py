# SPDX-License-Identifier: MIT
"""The load generator: counts, limits, and verification that finds every injected fault."""

from __future__ import annotations

import array
import threading
from contextlib import closing
from pathlib import Path

import pytest

from tests.fakes.block.guest_loop import Loop
from worker.devices.block.guest.load import LoadConfig, LoadResult
from worker.devices.block.guest.native._front import ffi, lib
from worker.devices.block.guest.ring import VerifyTable

SECTORS = 2048
BYTES = SECTORS * 512


def run(loop: Loop, table: VerifyTable | None = None, **values: object) -> LoadResult:
    """Run one load over the whole disk."""
    config = LoadConfig(**{"stall": 2.0, "poll_us": 20, **values})  # type: ignore[arg-type]
    return loop.ring.run(config.check(BYTES), table)


@pytest.mark.parametrize("rw", ["read", "write", "randread", "randwrite", "randrw"])
@pytest.mark.parametrize("block", [512, 1536, 4096, 65536])
def test_load_total_moves_exactly_so_many_blocks(rw: str, block: int) -> None:
    """As many whole blocks as fit the total, all counted once, none in flight."""
    with Loop(order=0) as loop:
        result = run(loop, rw=rw, block_size=block, depth=8, total=40 * block + 511)
        assert result.reads + result.writes == 40
        assert result.read_bytes + result.write_bytes == 40 * block
        assert result.read_latency.count + result.write_latency.count == 40
        assert (result.end, result.errors, result.in_flight) == ("done", 0, 0)
        assert loop.ring.in_flight == 0


def test_load_without_limits_covers_the_region_once() -> None:
    """A sequential write with neither runtime nor total writes every block."""
    with Loop() as loop, _table() as table:
        result = run(loop, table, rw="write", depth=16, verify=True)
        assert result.writes == BYTES // 4096
        assert result.verified == BYTES // 4096
        assert table.known == BYTES // 4096


def test_load_runtime_ends_it() -> None:
    """It runs as long as it was told, and not for a run of its full length."""
    with Loop() as loop:
        result = run(loop, rw="randread", depth=4, runtime=0.05)
        assert 0.05 <= result.elapsed < 2
        assert result.reads > 0


def test_load_tick_bounds_what_begins_and_takes_a_stop() -> None:
    """Two I/Os a tick: no more begin than ticks have come, and none is made up for."""
    with Loop() as loop:
        result = run(loop, rw="randread", depth=2, runtime=0.1, tick=0.02)
        assert 2 <= result.reads <= 2 * (result.elapsed / 0.02 + 1)
        assert (result.end, result.in_flight) == ("done", 0)


def test_load_tick_longer_than_the_stall_is_not_stuck() -> None:
    """A guest that asks for nothing waits for nothing."""
    with Loop() as loop:
        result = run(loop, rw="randread", depth=1, runtime=0.8, tick=0.8, stall=0.4)
        assert result.end == "done"


def test_load_record_holds_each_io_with_its_times(tmp_path: Path) -> None:
    """As many records as I/Os, in the order of their answers, appended by the next load."""
    path = tmp_path / "record"
    with Loop() as loop:
        for _ in range(2):
            run(loop, rw="randrw", depth=4, total=700 * 4096, record=str(path))
    moments = array.array("Q", path.read_bytes())
    starts, ends = moments[0::2], moments[1::2]
    assert len(starts) == 1400
    assert list(ends) == sorted(ends)
    assert all(start <= end for start, end in zip(starts, ends, strict=True))


def test_load_record_that_cannot_be_written_is_told() -> None:
    """A full disk ends the load as a failure of the host, not as one of the backend."""
    with Loop() as loop:
        result = run(loop, rw="randread", depth=4, total=2000 * 4096, record="/dev/full")
        assert result.end == "host"
        assert not result.ok


def test_verify_loads_of_several_block_sizes_share_what_they_know() -> None:
    """With one unit for all, what one load wrote is compared by the next of another size."""
    with Loop() as loop, closing(VerifyTable(BYTES, 512)) as table:
        run(loop, table, rw="write", block_size=4096, verify=True, verify_unit=512)
        for block in (512, 1024, 65536):
            result = run(
                loop, table, rw="read", block_size=block, depth=4, verify=True, verify_unit=512
            )
            assert (result.verified, result.mismatches) == (BYTES // 512, 0)


def test_load_read_percent_is_kept_about() -> None:
    """Three quarters reads in a thousand draws."""
    with Loop() as loop:
        result = run(loop, rw="randrw", depth=8, total=1000 * 4096, read_percent=75)
        assert 650 < result.reads < 850


def test_load_stop_ends_it_with_what_was_done() -> None:
    """Another thread ends it; the answers in flight are still taken."""
    with Loop() as loop:
        timer = threading.Timer(0.05, loop.ring.stop)
        timer.start()
        result = run(loop, rw="randread", depth=8, runtime=60)
        timer.join()
        assert (result.end, result.in_flight) == ("stopped", 0)
        assert result.ok


@pytest.mark.parametrize("poll_us", [0, 1000])
def test_load_sleeps_and_polls_alike(poll_us: int) -> None:
    """Nothing gets lost between the last look at the ring and falling asleep."""
    with Loop(poll_us=0) as loop:
        result = run(loop, rw="randread", depth=2, total=3000 * 4096, poll_us=poll_us)
        assert (result.end, result.reads) == ("done", 3000)


@pytest.mark.parametrize(("bits", "persistent"), [(64, True), (32, False)])
def test_verify_mixed_load_on_a_sound_disk_finds_nothing(bits: int, persistent: bool) -> None:
    """Every read of a known unit is compared; a small disk makes writes and reads collide."""
    with Loop(bits=bits, persistent=persistent) as loop, _table() as table:
        result = run(loop, table, rw="randrw", depth=32, total=4000 * 4096, verify=True)
        assert result.ok
        assert result.verified > 1500


@pytest.mark.parametrize("block", [512, 6144, 65536, 1 << 17])
def test_verify_any_block_size_is_compared_by_its_unit(block: int) -> None:
    """Blocks smaller and larger than a page, and of several requests."""
    unit = LoadConfig(block_size=block).unit
    with Loop(order=0) as loop, _table(unit) as table:
        result = run(loop, table, rw="randrw", block_size=block, depth=3, verify=True, runtime=0.05)
        assert result.ok
        assert result.verified > 0


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("lose_write", "stale"), ("misplace_read", "misplaced"), ("tear_write", "torn")],
)
def test_verify_injected_fault_is_found_and_named(fault: str, kind: str) -> None:
    """A lost write, a read from elsewhere and half a write are told apart."""
    with _table() as table:
        with Loop(faults={fault: 7}) as loop:
            # Written twice, so that what is lost leaves an older write behind.
            first = run(loop, table, rw="write", depth=4, verify=True, readback=False)
            assert first.writes == BYTES // 4096
            result = run(loop, table, rw="write", depth=4, verify=True)
        assert result.mismatches > 0
        assert result.mismatch is not None
        assert result.mismatch.kind == kind
        assert not result.ok


def test_verify_content_of_someone_else_is_foreign() -> None:
    """A block that was overwritten behind our back is found with its place."""
    with Loop() as loop, _table() as table:
        run(loop, table, rw="write", depth=4, verify=True)
        loop.disk[40960:40970] = b"not of ours"[:10]
        result = run(loop, table, rw="read", verify=True)
        assert result.mismatches == 1
        assert result.mismatch is not None
        assert (result.mismatch.kind, result.mismatch.sector) == ("foreign", 80)
        assert result.mismatch.bad_offset == 0


def test_verify_single_wrong_bit_is_found_at_its_byte() -> None:
    """The last bit of a unit counts too."""
    with Loop() as loop, _table() as table:
        run(loop, table, rw="write", depth=4, verify=True)
        loop.disk[8191] = bytes([loop.disk[8191][0] ^ 0x80])
        result = run(loop, table, rw="read", verify=True)
        assert result.mismatch is not None
        assert (result.mismatch.kind, result.mismatch.sector) == ("torn", 8)
        assert result.mismatch.bad_offset == 4095


def test_verify_forgotten_range_is_not_compared() -> None:
    """What others write is unknown, not wrong."""
    with Loop() as loop, _table() as table:
        run(loop, table, rw="write", depth=4, verify=True)
        loop.disk[4096:8192] = bytes(4096)
        table.forget(4096, 512)
        result = run(loop, table, rw="read", verify=True, readback=False)
        assert (result.mismatches, result.unverified) == (0, 1)


def test_verify_failed_write_leaves_the_content_unknown() -> None:
    """An error is counted once and not taken for wrong content later."""
    with Loop(faults={"fail": 5}) as loop, _table() as table:
        result = run(loop, table, rw="randwrite", depth=4, total=100 * 4096, verify=True)
        assert result.errors >= 20
        assert result.mismatches == 0
        assert "status -1" in result.first_error


def test_load_silent_backend_is_stuck_and_abandoned_writes_are_unknown() -> None:
    """The run ends by its time limit and says how much had no answer."""
    with Loop(faults={"swallow": 10}) as loop, _table() as table:
        result = run(loop, table, rw="write", depth=4, verify=True, stall=0.05)
        assert (result.end, result.in_flight, result.writes) == ("stuck", 4, 10)
        assert table.known == 10
        again = run(loop, table, rw="read", verify=True, stall=0.05)
        assert again.end == "stuck"


def test_load_repeated_response_ends_it_as_protocol_error() -> None:
    """Nothing is counted twice."""
    with Loop(faults={"repeat": 20}) as loop:
        result = run(loop, rw="randread", depth=4, total=100 * 4096)
        assert result.end == "protocol"
        assert result.reads <= 20


def test_pattern_of_another_place_or_write_differs_everywhere() -> None:
    """Neighbours in place and sequence share no word beyond the header."""
    blocks = []
    for sector, sequence in ((8, 1), (8, 2), (16, 1)):
        block = ffi.new("uint64_t[]", 512)
        lib.front_pattern(ffi.cast("uint8_t *", block), 4096, 99, sector, sequence)
        blocks.append(set(list(block)[4:]))
    assert not blocks[0] & blocks[1]
    assert not blocks[0] & blocks[2]


def _table(unit: int = 4096) -> _Table:
    return _Table(BYTES, unit)


class _Table(VerifyTable):
    def __enter__(self) -> VerifyTable:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
