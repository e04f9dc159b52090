# SPDX-License-Identifier: MIT
"""What `make bench-xen` makes of the words of /proc and fio, and its floor."""

from __future__ import annotations

import pytest

from bench.xen_machine import BACKENDS, Backend, Load, Snapshot
from bench.xen_report import CASES, Sample, Samples, broken, costs, rates

BEFORE = """\
/proc/7/comm:kworker/u4:1-loop0
/proc/7/task/7/schedstat:1000 5 2
/proc/9/comm:xenbackd: vbd3/
/proc/9/task/9/schedstat:4000000 5 2
"""
AFTER = """\
/proc/7/comm:kworker/u4:1-events_unbound
/proc/7/task/7/schedstat:3000 5 2
/proc/9/comm:xenbackd: vbd3/
/proc/9/task/9/schedstat:4500000 5 2
/proc/9/task/10/schedstat:250000 5 2
"""


def samples(ours: float) -> Samples:
    """Three rounds in which QEMU did 100 I/Os a second."""
    rates: dict[Backend, float] = {"xenbackd": ours, "QEMU": 100.0, "blkback": 50.0}
    return {case: {x: [Sample(rates[x], 1.0, 2.0)] * 3 for x in BACKENDS} for case in CASES}


def test_snapshot_since_counts_new_threads_of_a_process() -> None:
    """A thread that a process has started meanwhile is all its own."""
    before, after = Snapshot.parse(BEFORE), Snapshot.parse(AFTER)
    assert after.since(before, 9) == 750.0
    assert after.since(before, 7) == 2.0


def test_load_parse_adds_reads_and_writes() -> None:
    """A mixed run did what its reads and its writes did."""
    fields = ["3", "fio-3.33", "x", "0", "0", "400", "80", "20", "5000", *["0"] * 121]
    fields[46:50] = ["80", "16", "4", "5000"]
    assert Load.parse(";".join(fields), 4096) == Load(ios=120.0, rate=24)


def test_load_parse_fio_failed_says_its_words() -> None:
    """What fio complained of is not lost."""
    with pytest.raises(RuntimeError, match="No such device"):
        Load.parse("fio: No such device", 4096)


@pytest.mark.parametrize(("ours", "count"), [(99.0, 2), (100.0, 0)])
def test_broken_slower_than_qemu_names_both_cases(ours: float, count: int) -> None:
    """The floor is QEMU's own rate, reading and writing at depth 16."""
    assert len(broken(samples(ours))) == count


def test_tables_every_row_has_the_columns_of_the_head() -> None:
    """Markdown that renders."""
    for table in (rates(samples(100.0)), costs(samples(100.0))):
        assert len({line.count("|") for line in table}) == 1
