# SPDX-License-Identifier: MIT
"""Requests and indices that change while they are parsed (XSA-155).

A thread of the guest writes over the ring as fast as it can, in C, while the product's own parser
works: above a million requests in all. What must hold whatever it reads stands in
native/blk_flip_host.c. A parser that looks at any of the fields twice does not pass.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.block.blk import LAYOUT_32, LAYOUT_64, Layout
from tests.fakes.block.blkflip import SLOTS, flip_bench
from worker.devices.block.native._block import lib

REQUESTS = 260_000
EPROTO = 71
SLOT_NUMBERS = 1 << 32

CASES: list[tuple[str, Layout, bool, bool, dict[str, Any]]] = [
    # name, layout, persistent grants, journal, options of the device
    ("x86_64_copied", LAYOUT_64, False, False, {}),
    ("x86_64_mapped_journal", LAYOUT_64, True, True, {"engine": lib.BLK_ENGINE_AUTO}),
    ("x86_32_mapped", LAYOUT_32, True, False, {"engine": lib.BLK_ENGINE_AUTO}),
    ("x86_64_read_only_journal", LAYOUT_64, False, True, {"read_only": 1}),
]


@pytest.mark.parametrize(
    ("layout", "persistent", "journal", "options"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_f22_request_changed_while_it_is_parsed_is_judged_by_one_copy(
    layout: Layout, persistent: bool, journal: bool, options: dict[str, Any]
) -> None:
    """Every field flips between good and bad; what is done and answered is of one reading."""
    with flip_bench(layout, **{"engine": lib.BLK_ENGINE_SYNC, **options}) as it:
        assert it.attach(persistent=persistent, journal=journal) == 0
        with it.flipping():
            it.rounds(REQUESTS)
        report = it.report()

        assert report["first"] == ""
        assert report["violations"] == 0
        assert report["requests"] >= REQUESTS
        assert report["flips"] >= REQUESTS
        # Both kinds of everything came by, or the guest was not at it.
        counters = it.counters()
        assert counters.bad_segments > 0
        assert counters.bad_range > 0
        assert counters.bad_operation > 0
        assert counters.grant_errors > 0
        assert counters.rd_req > 0
        assert report["reads"] > 0
        assert (counters.wr_req == 0) is bool(options.get("read_only"))
        assert it.detach() == 0
        assert it.report()["mapped"] == 0


@pytest.mark.parametrize("journal", [False, True], ids=["ring", "journal"])
def test_f13_producer_changed_while_it_is_looked_at_is_judged_by_one_reading(
    journal: bool,
) -> None:
    """req_prod and rsp_prod flip at every attach and every look: served within bounds, or a
    fault that names an index which really cannot be."""
    attempts = faults = 0
    with flip_bench(LAYOUT_64, engine=lib.BLK_ENGINE_SYNC) as it:
        it.fill()
        assert it.attach(persistent=False, journal=journal) == 0
        assert it.run() == lib.BLK_TIMEOUT
        assert it.detach() == 0
        with it.flipping(producer=True):
            while attempts < 5000 or not faults:  # the other thread may not have had its turn
                attempts += 1
                result = it.attach(persistent=False, journal=journal, resume=True)
                while result == 0 and (reason := it.run()) != lib.BLK_FAULT:
                    assert reason == lib.BLK_TIMEOUT
                    status = it.status()
                    assert (status.req_cons - status.rsp_prod) % SLOT_NUMBERS <= SLOTS
                assert result in (0, -EPROTO)
                faults += it.status().fault != lib.BLK_FAULT_NONE
                if it.status().fault == lib.BLK_FAULT_OVERFLOW:
                    named_an_impossible_index(it.status())
                assert it.detach() == 0
        report = it.report()

    assert report["first"] == ""


def named_an_impossible_index(status: Any) -> None:
    """The index in the report is one no frontend can have come to."""
    ahead = (status.untrusted_req_prod - status.rsp_prod) % SLOT_NUMBERS
    taken = (status.req_cons - status.rsp_prod) % SLOT_NUMBERS
    assert ahead > SLOTS or ahead < taken
