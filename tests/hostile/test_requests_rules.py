# SPDX-License-Identifier: MIT
"""Requests that break a rule (F17 to F21 and F25), many thousand of them.

Each rule by itself is in tests/unit/devices/block/test_requests.py, and over a whole xenbackd in
test_bad_input_requests.py. Here the parser is held against a second statement of the
rules (tests/fakes/block/blkrules.py), and ranges of values are gone through completely.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import pytest

from tests.fakes.block.blk import (
    DISCARD,
    ERROR,
    INDIRECT,
    LAYOUT_32,
    LAYOUT_64,
    OKAY,
    READ,
    WRITE,
    Bench,
    Layout,
    bench,
)
from tests.fakes.block.blkrules import TOP, RecordingDisk, Rules, judge, wild_requests

BOTH = pytest.mark.parametrize("layout", [LAYOUT_64, LAYOUT_32], ids=["x86_64", "x86_32"])
MAX64 = TOP - 1
RULES = {
    "all": Rules(),
    "read_only": Rules(read_only=True),
    "large_sectors": Rules(sector_size=4096),
    "nothing_offered": Rules(flush=False, discard=False),
}


def packed(
    layout: Layout,
    operation: int,
    count: int,
    sector: int,
    segments: Iterable[tuple[int, int, int]] = (),
    *,
    length: int | None = None,
) -> bytes:
    """A slot; `length` is a discard's."""
    raw = bytearray(layout.slot)
    raw[0], raw[1] = operation, count
    struct.pack_into("<Q", raw, layout.id, MAX64)
    struct.pack_into("<Q", raw, layout.sector, sector)
    for i, segment in enumerate(segments):
        struct.pack_into("<IBB", raw, layout.segments + 8 * i, *segment)
    if length is not None:
        struct.pack_into("<Q", raw, layout.segments, length)
    return bytes(raw)


def submit(it: Bench, requests: Sequence[bytes]) -> list[tuple[int, int, int]]:
    """All of them, a ring full at a time; their answers in order."""
    answers = []
    for begin in range(0, len(requests), it.frontend.slots):
        for raw in requests[begin : begin + it.frontend.slots]:
            it.frontend.put_raw(raw)
        answers += it.serve()
    return answers


def held_against_the_rules(
    layout: Layout, rules: Rules, requests: Sequence[bytes]
) -> dict[int, int]:
    """Serve the requests; what is answered and done must be what the rules say.

    Returns how often each status came.
    """
    disk = RecordingDisk(rules.sectors * 512)
    expected = [judge(raw, layout, rules) for raw in requests]
    with bench(layout=layout, disk=disk, **rules.options) as it:
        answers = submit(it, requests)
    heads = [(struct.unpack_from("<Q", raw, layout.id)[0], raw[0]) for raw in requests]
    assert answers == [
        (*head, verdict.status) for head, verdict in zip(heads, expected, strict=True)
    ]
    # Of reads and writes in the order of the ring: one thread serves.
    assert disk.seen == [verdict.call for verdict in expected if verdict.call is not None]
    statuses = [verdict.status for verdict in expected]
    return {status: statuses.count(status) for status in set(statuses)}


@BOTH
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_f17_to_f21_wild_requests_are_judged_as_the_interface_says(
    layout: Layout, rules: Rules
) -> None:
    """Thousands of slots, each field good or bad by chance: status, id and operation of the answer
    and every call to the disk are those of the interface, ids that come twice included."""
    requests = list(wild_requests(layout, rules, 4000, seed=layout.slot))

    seen = held_against_the_rules(layout, rules, requests)

    assert seen[OKAY] > 100
    assert seen[ERROR] > 1000


@BOTH
def test_f17_every_operation_is_served_or_not_supported(layout: Layout) -> None:
    """All 256 of them; what was not offered is answered as that and touches nothing."""
    requests = [packed(layout, op, 1, 0, [(100, 0, 7)]) for op in range(256)]
    requests += [packed(layout, op, 0, 0, length=8) for op in range(256)]

    seen = held_against_the_rules(layout, Rules(), requests)

    assert seen[OKAY] == 4  # read and write with data, flush and discard without


@BOTH
@pytest.mark.parametrize("inner", [READ, WRITE, INDIRECT, 255])
@pytest.mark.parametrize("segments", [0, 1, 256, 65535])
@pytest.mark.parametrize("persistent", [False, True], ids=["copy", "persistent"])
def test_f17_indirect_request_is_not_supported_and_reads_no_page(
    layout: Layout, inner: int, segments: int, persistent: bool
) -> None:
    """`struct blkif_request_indirect` (blkif.h), which was not offered: whatever stands in it, none
    of its references is mapped or copied."""
    raw = bytearray(packed(layout, INDIRECT, inner, 0))
    struct.pack_into("<H", raw, 2, segments)
    handle = 24 if layout is LAYOUT_64 else 20  # then the references of pages full of segments
    struct.pack_into("<H8I", raw, handle, 0, *[100] * 8)
    with bench(layout=layout, persistent=persistent) as it:
        assert submit(it, [bytes(raw)]) == [(MAX64, INDIRECT, -2)]
        assert it.hypervisor.map_calls == []
        assert it.hypervisor.copies == []
        assert it.disk.calls == []


@BOTH
def test_f18_every_number_of_segments_is_1_to_11_or_an_error(layout: Layout) -> None:
    """0 to 255 of reads and of writes; more than the slot holds never reaches beyond it."""
    segments = [(100 + i, 0, 0) for i in range(11)]
    requests = [
        packed(layout, op, count, 0, segments) for op in (READ, WRITE) for count in range(256)
    ]

    assert held_against_the_rules(layout, Rules(), requests) == {OKAY: 22, ERROR: 490}


@BOTH
def test_f19_every_span_of_sectors_lies_in_its_page_or_is_an_error(layout: Layout) -> None:
    """First and last from 0 to 9 and at the ends of a byte, as first and as last of 11 segments."""
    values = [*range(10), 127, 128, 254, 255]
    good = [(101, 0, 0)] * 10
    requests = [
        packed(layout, READ, 11, 0, segments)
        for first in values
        for last in values
        for segments in ([(100, first, last), *good], [*good, (100, first, last)])
    ]

    assert held_against_the_rules(layout, Rules(), requests)[OKAY] == 2 * 36


@BOTH
@pytest.mark.parametrize("operation", [READ, WRITE, DISCARD])
def test_f19_f20_every_end_and_every_wrap_is_held_to_the_disk(
    layout: Layout, operation: int
) -> None:
    """Around 0, the end, and everything that wraps at 2^64 in sectors or in bytes."""
    edges = [0, 128, 1 << 32, 1 << 55, 1 << 63, TOP]
    values = [value % TOP for edge in edges for value in range(edge - 9, edge + 10)]
    requests = []
    for sector in values:
        if operation == DISCARD:
            lengths = (0, 1, 8, 127, 128, 129, 1 << 55, 1 << 63, MAX64, TOP - sector)
            requests += [packed(layout, operation, 0, sector, length=n % TOP) for n in lengths]
        else:
            for last in (0, 7):
                requests.append(packed(layout, operation, 1, sector, [(100, 0, last)]))

    seen = held_against_the_rules(layout, Rules(), requests)

    assert seen[OKAY] > 20
    assert seen[ERROR] > 100


@BOTH
def test_f20_discard_flag_of_any_value_is_not_secure_discard(layout: Layout) -> None:
    """Secure discard is not offered, so each flag but 0 is refused; all other bytes are free."""
    requests = [packed(layout, DISCARD, flag, 8, length=8) for flag in range(256)]

    assert held_against_the_rules(layout, Rules(), requests) == {OKAY: 1, ERROR: 255}


@BOTH
def test_f25_large_sectors_refuse_whatever_is_not_aligned(layout: Layout) -> None:
    """On a disk of 4 KiB sectors: every begin and every length, also one that segments make up
    together, is either whole sectors or an error, never cut or rounded."""
    spans = [(first, last) for first in range(8) for last in range(first, 8)]
    requests = [
        packed(layout, op, len(segments), sector, segments)
        for op in (READ, WRITE)
        for sector in range(17)
        for first, last in spans
        for segments in ([(100, first, last)], [(100, first, last), (101, 0, 7 - last)])
    ]
    requests += [
        packed(layout, DISCARD, 0, sector, length=length)
        for sector in range(17)
        for length in range(18)
    ]

    seen = held_against_the_rules(layout, Rules(sector_size=4096), requests)

    assert seen[OKAY] > 20


@pytest.mark.parametrize("journal", [False, True], ids=["ring", "journal"])
@BOTH
def test_f21_ids_are_echoed_bit_by_bit_however_often_they_come(
    layout: Layout, journal: bool, journal_file: int
) -> None:
    """One id for a whole ring, and ids of all ones, none, and one bit: as many answers as requests,
    each with the bits it came with."""
    idents = [1 << bit for bit in range(64)] + [MAX64] * 40 + [0] * 24
    with bench(layout=layout, attach=False) as it:
        assert it.attach(journal_fd=journal_file if journal else -1, journal=journal) == 0
        answers = []
        for begin in range(0, len(idents), 32):
            for ident in idents[begin : begin + 32]:
                it.frontend.put(READ, ident, 0, [(100, 0, 7)])
            answers += it.serve()

        assert answers == [(ident, READ, OKAY) for ident in idents]
