# SPDX-License-Identifier: MIT
"""Pages that a guest did not grant, not so, or not any more (F23).

On the embedded hypervisor, whose checks between domains are real. How mapping and copying fall back
on each other is in tests/unit/devices/block/test_grants.py, the hypervisor's own checks are in
tests/process/embedded/test_grants.py.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedded.domain import Domain
from embedded.protocol import GRANT_ENTRIES, GrantFlags
from tests.fakes.block.blk import ERROR, OKAY, READ, WRITE
from tests.fakes.block.blkembedded import EmbeddedBench, embedded_bench
from tests.process.embedded.embedded_world import running_hypervisor
from worker.devices.block.native._block import lib

GUARD = b"guard..." * 512
OTHERS_REF = 5000
"""A reference that another guest granted to dom0, and ours did not."""


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A hypervisor for the whole module."""
    with running_hypervisor() as path:
        yield path


@pytest.fixture(params=[False, True], ids=["copy", "persistent"])
def it(directory: Path, request: pytest.FixtureRequest) -> Iterator[EmbeddedBench]:
    """A guest and its disk, by copying and by mapping."""
    with embedded_bench(directory, persistent=request.param) as bench:
        yield bench


def granted(
    it: EmbeddedBench, content: bytes = GUARD, *, readonly: bool = False
) -> tuple[int, int]:
    """A page of the guest's that is granted to dom0: its frame and reference."""
    [frame] = it.guest.domain.alloc_pages(1)
    it.guest.domain.page(frame)[:] = content
    return frame, it.guest.domain.grant(frame, readonly=readonly)


def refused(it: EmbeddedBench, ref: int) -> None:
    """Neither a read nor a write by this reference is done, alone or behind good segments."""
    frame, good = granted(it)
    before, mapped = it.content(), it.mapped()
    for segments in ([(ref, 0, 7)], [(good, 0, 7)] * 10 + [(ref, 0, 7)]):
        assert it.ask(READ, 0, segments) == ERROR
        assert it.ask(WRITE, 64, segments) == ERROR
    assert it.content() == before
    assert it.mapped() <= mapped + 1  # the good one
    assert it.ask(READ, 0, [(good, 0, 7)]) == OKAY
    assert bytes(it.guest.domain.page(frame)) == before[:4096]


def test_f23_reference_that_grants_nothing_is_refused(it: EmbeddedBench) -> None:
    """Reserved, never granted, the last, beyond the table, and all bits."""
    for ref in (0, 1, 4000, GRANT_ENTRIES - 1, GRANT_ENTRIES, 1 << 31, (1 << 32) - 1):
        refused(it, ref)


def test_f23_entry_of_another_kind_or_to_another_domain_is_refused(it: EmbeddedBench) -> None:
    """Invalid, accept-transfer and transitive entries, an access for another domain than ours, and
    frames outside of the guest, or of its grant table, that it cannot have to give."""
    [frame] = it.guest.domain.alloc_pages(1)
    entries = [
        (0, 0, frame),
        (2, 0, frame),  # GTF_accept_transfer
        (3, 0, frame),  # GTF_transitive
        (GrantFlags.PERMIT_ACCESS, 7, frame),
        (GrantFlags.PERMIT_ACCESS, 0x7FF0, frame),  # DOMID_SELF
        (GrantFlags.PERMIT_ACCESS, 0, 1),
        (GrantFlags.PERMIT_ACCESS, 0, 1 << 31),
        (GrantFlags.PERMIT_ACCESS, 0, (1 << 32) - 1),
    ]
    for number, entry in enumerate(entries):
        ref = 6000 + number
        it.guest.domain.write_grant_entry(ref, *entry)
        refused(it, ref)
        it.guest.domain.write_grant_entry(ref, 0, 0, 0)


def test_f23_reference_of_another_guest_is_none_of_ours(it: EmbeddedBench) -> None:
    """Its number names an entry of this guest's own table: the other's page is neither read nor
    written, though dom0 may use it."""
    with Domain.create(it.directory, "innocent", 128) as other:
        [frame] = other.alloc_pages(1)
        other.page(frame)[:] = GUARD
        other.write_grant_entry(OTHERS_REF, GrantFlags.PERMIT_ACCESS, 0, frame)
        refused(it, OTHERS_REF)
        assert bytes(other.page(frame)) == GUARD
        assert GUARD not in it.content()


def test_f23_read_only_page_takes_no_read_but_gives_a_write(it: EmbeddedBench) -> None:
    """A read would have to write there; alone or among others that may be written."""
    frame, ref = granted(it, readonly=True)
    _, good = granted(it)
    for segments in ([(ref, 0, 7)], [(good, 0, 7), (ref, 0, 7)], [(ref, 3, 3)] * 11):
        assert it.ask(READ, 0, segments) == ERROR
        assert bytes(it.guest.domain.page(frame)) == GUARD
    assert it.ask(WRITE, 8, [(ref, 0, 7)]) == OKAY
    assert it.content()[4096:8192] == GUARD


def test_f23_one_page_in_every_segment_is_the_guest_s_own_affair(it: EmbeddedBench) -> None:
    """Eleven times the same: a read leaves what came last, a write repeats the page, and one
    mapping or none is all it costs."""
    frame, ref = granted(it)
    mapped = it.mapped()
    assert it.ask(WRITE, 0, [(ref, 0, 7)] * 11) == OKAY
    assert it.content()[: 11 * 4096] == GUARD * 11
    assert it.ask(READ, 88, [(ref, 0, 7)] * 11) == OKAY
    assert bytes(it.guest.domain.page(frame)) == it.content()[168 * 512 :][:4096]
    assert it.mapped() <= mapped + 1


def test_f23_ring_as_a_page_for_data_is_the_guest_s_own_end(directory: Path) -> None:
    """A guest may read from the disk into its own ring, and write the ring to the disk: whatever
    indices that makes, they are judged like any; then the ring is faulted or served, and all of
    it is given back."""
    for content in (b"\0" * 4096, b"\xff" * 4096, os.urandom(4096), struct.pack("<I", 3) * 1024):
        for persistent in (False, True):
            with embedded_bench(directory, persistent=persistent) as it:
                ring = int(it.guest.nodes["ring-ref"])
                assert it.ask(WRITE, 0, [(ring, 0, 7)]) == OKAY
                os.pwrite(it.file, content, 4096)
                it.submit(READ, 8, [(ring, 0, 7)])
                for _ in range(3):
                    assert it.run() in (lib.BLK_TIMEOUT, lib.BLK_FAULT)
                it.detach()
                assert it.mapped() == 1


def test_f23_page_taken_back_before_its_first_use_is_refused(it: EmbeddedBench) -> None:
    """Revoked between the submission and our look, which from here is the same as never granted."""
    frame, ref = granted(it)
    it.guest.domain.write_grant_entry(ref, 0, 0, 0)  # and not given to another page meanwhile
    refused(it, ref)
    assert bytes(it.guest.domain.page(frame)) == GUARD


def test_f23_page_revoked_by_force_while_in_use_harms_nobody_else(it: EmbeddedBench) -> None:
    """The guest wipes the entry, points it elsewhere and at read-only while we use it: a mapping
    stays what it was until we let go, a copy is refused from then on; no other page is touched."""
    domain = it.guest.domain
    frame, ref = granted(it)
    other, _ = granted(it)
    assert it.ask(READ, 0, [(ref, 0, 7)]) == OKAY
    kept = it.guest.nodes["feature-persistent"] == b"1"
    assert domain.end_access(ref) is not kept
    for entry in ((0, 0, 0), (GrantFlags.PERMIT_ACCESS | GrantFlags.READONLY, 0, other)):
        domain.write_grant_entry(ref, *entry)
        status = it.ask(READ, 64, [(ref, 0, 7)])
        assert status == (OKAY if kept else ERROR)
        assert bytes(domain.page(other)) == GUARD
    if kept:
        assert bytes(domain.page(frame)) == it.content()[64 * 512 :][:4096]
    it.detach()
    assert it.mapped() == 1  # the ring
    domain.write_grant_entry(ref, 0, 0, 0)


def test_f23_thousands_of_bad_references_are_bounded_and_given_back(directory: Path) -> None:
    """More different ones than the table has room for, all of which fall onto one place in it:
    memory and mappings stay within the maximum, and good pages are served in between."""
    with embedded_bench(directory, persistent=True, max_persistent=64) as it:
        frame, good = granted(it)
        for number in range(400):
            bad = [(10_000 + 128 * (11 * number + i), 0, 7) for i in range(11)]
            assert it.ask(READ, 0, bad) == ERROR
        assert it.ask(READ, 8, [(good, 0, 7)]) == OKAY
        assert bytes(it.guest.domain.page(frame)) == it.content()[4096:8192]
        assert it.counters().persistent_grants <= 64
        assert it.mapped() <= 64 + 1
        # Each is tried once until the table is full; from then on all go by copy at once.
        assert it.counters().grant_maps <= 2 * 64
