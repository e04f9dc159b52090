# SPDX-License-Identifier: MIT
"""The same over a whole xenbackd, beside an innocent guest (F13 to F26 together).

Each case by itself is in the other test_requests_*.py, on the data plane alone. Here many of them
meet in one guest's life, and the scene asserts what must hold for everybody else: the innocent
guest's verified I/O in the same worker, nothing left behind, bounded log and memory.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest

from embedded.protocol import GrantFlags
from tests.fakes.block.blk import ERROR, LAYOUT_32, LAYOUT_64, OKAY, Layout
from tests.fakes.block.blkrules import WILD_PAGES, Rules, judge, wild_requests
from tests.hostile.scene import Scene
from tests.process.lab_world import DEADLINE, SECTORS, Guest
from worker.devices.block.guest.ring import REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD

FIRST_REF = 9000
REQUESTS = 2000
STORM = 100_000
RULES = Rules(sectors=SECTORS)


@pytest.mark.parametrize(
    ("protocol", "layout", "persistent"),
    [("x86_64-abi", LAYOUT_64, True), ("x86_32-abi", LAYOUT_32, False)],
)
def test_f13_to_f24_hostile_ring_leaves_the_innocent_guest_alone(
    scene: Scene, protocol: str, layout: Layout, persistent: bool
) -> None:
    """Thousands of wild requests, each answered as the interface says; a storm of events; indices
    overwritten; producers that cannot be, each of which closes this device only and no later
    connection."""
    with scene.hostile(protocol=protocol, persistent=persistent) as guest:
        guest.disk.connect(DEADLINE)
        wild_pages(guest)
        requests = list(wild_requests(layout, RULES, REQUESTS, seed=23, first_ref=FIRST_REF))
        verdicts = [judge(raw, layout, RULES) for raw in requests]
        statuses = poured(guest, requests)
        assert statuses == [verdict.status for verdict in verdicts]
        assert statuses.count(OKAY) > 100
        assert statuses.count(ERROR) > 500
        reads = sum(verdict.call is not None and verdict.call[0] == "read" for verdict in verdicts)
        storm(scene, guest, reads)
        overwritten_indices(guest)
        for ahead in (600, 1 << 31, (1 << 32) - 1):
            ring = guest.disk.ring
            assert ring is not None
            scene.forget_error(guest)
            ring.poke(REQ_PROD, ring.index(RSP_PROD) + ahead)
            ring.notify()
            scene.refused(guest, "req_prod", "makes no sense")
            scene.starts_anew(guest)


def wild_pages(guest: Guest) -> None:
    """Grant what the wild requests name."""
    for number, frame in enumerate(guest.domain.alloc_pages(WILD_PAGES)):
        guest.domain.write_grant_entry(FIRST_REF + number, GrantFlags.PERMIT_ACCESS, 0, frame)


def poured(guest: Guest, requests: Sequence[bytes]) -> list[int]:
    """Submit all, as many at a time as the ring holds; the statuses by the order of submission.

    Answers come in any order, so what tells them apart is put into the ids.
    """
    ring = guest.disk.ring
    assert ring is not None
    at = 4 if ring.slot_size == 108 else 8
    statuses: dict[int, int] = {}
    for begin in range(0, len(requests), ring.slots):
        part = requests[begin : begin + ring.slots]
        for number, raw in enumerate(part, begin):
            ident = struct.pack("<Q", (1 << 63) + number)
            ring.raw_submit(
                raw[:at] + ident + raw[at + 8 :], publish=number == begin + len(part) - 1
            )
        for _ in part:
            while (response := ring.raw_response(12)) is None:
                assert ring.raw_wait(DEADLINE)
            ident, _, status = struct.unpack_from("<QBxh", response)
            assert ident - (1 << 63) not in statuses
            statuses[ident - (1 << 63)] = status
    return [statuses[number] for number in range(len(requests))]


def storm(scene: Scene, guest: Guest, reads: int) -> None:
    """A hundred thousand events without a request: the worker wakes up for no more than that.

    `reads` were done before; the counters come with a beat, which must be one from after the storm.
    """
    ring = guest.disk.ring
    assert ring is not None
    for _ in range(STORM):
        ring.notify()
    guest.works()
    sent = ring.counters().notifies
    assert sent >= STORM
    status = scene.lab.wait_device(guest.device, lambda now: now.counters["rd_req"] > reads)
    assert status.counters["wakeups"] <= sent + 1  # the binding makes one


def overwritten_indices(guest: Guest) -> None:
    """What is ours or only a wish holds anything, and I/O goes on."""
    ring = guest.disk.ring
    assert ring is not None
    for value in (0, 1 << 31, (1 << 32) - 1):
        for index in (REQ_EVENT, RSP_EVENT):
            ring.poke(index, value)
        ring.notify()
        guest.works()
