# SPDX-License-Identifier: MIT
"""The hypervisor's view of a grant table: checks, pins, counts, and a hostile owner."""

from __future__ import annotations

import pytest

from embedded.grants import GrantTable
from embedded.protocol import (
    FIRST_FRAME,
    GRANT_ENTRIES,
    GRANT_ENTRY,
    PAGE_SIZE,
    GrantFlags,
)
from shared.hypervisor.status import GrantStatus

PAGES = 64
FRAME = FIRST_FRAME + 1
OK = GrantStatus.OKAY
OFFERED = GrantFlags.PERMIT_ACCESS
READONLY = OFFERED | GrantFlags.READONLY


class Guest:
    """Entries in the guest's memory, and the table over them."""

    def __init__(self) -> None:
        self.entries = bytearray(GRANT_ENTRIES * GRANT_ENTRY.size)
        self.table = GrantTable(memoryview(self.entries), PAGES)

    def write(self, ref: int, flags: int, domid: int = 0, frame: int = FRAME) -> None:
        GRANT_ENTRY.pack_into(self.entries, ref * GRANT_ENTRY.size, flags, domid, frame)

    def flags(self, ref: int) -> GrantFlags:
        flags, _, _ = GRANT_ENTRY.unpack_from(self.entries, ref * GRANT_ENTRY.size)
        return GrantFlags(flags)

    def map_one(self, ref: int, domid: int = 0, *, writable: bool = True) -> GrantStatus:
        return self.table.map([ref], domid, writable=writable)[1][0].status


@pytest.fixture
def guest() -> Guest:
    """A guest that has offered nothing yet."""
    return Guest()


@pytest.mark.parametrize(
    ("flags", "domid", "frame", "writable", "status"),
    [
        (OFFERED, 0, FRAME, True, OK),
        (OFFERED, 0, FRAME, False, OK),
        (READONLY, 0, FRAME, False, OK),
        (READONLY, 0, FRAME, True, GrantStatus.PERMISSION_DENIED),
        (OFFERED, 5, FRAME, True, GrantStatus.PERMISSION_DENIED),
        (0, 0, FRAME, True, GrantStatus.BAD_GNTREF),
        (2, 0, FRAME, True, GrantStatus.BAD_GNTREF),
        (3, 0, FRAME, True, GrantStatus.BAD_GNTREF),
        (OFFERED, 0, 0, True, GrantStatus.BAD_GNTREF),
        (OFFERED, 0, FIRST_FRAME - 1, True, GrantStatus.BAD_GNTREF),
        (OFFERED, 0, PAGES - 1, True, OK),
        (OFFERED, 0, PAGES, True, GrantStatus.BAD_GNTREF),
        (OFFERED, 0, 0xFFFFFFFF, True, GrantStatus.BAD_GNTREF),
    ],
)
def test_grants_map_follows_the_permission_matrix(
    guest: Guest, flags: int, domid: int, frame: int, writable: bool, status: GrantStatus
) -> None:
    """Each combination of entry and wish has the outcome it has on Xen; dom0 maps."""
    guest.write(8, flags, domid, frame)

    assert guest.map_one(8, writable=writable) is status
    assert guest.table.mapped == (status is OK)


@pytest.mark.parametrize("ref", [GRANT_ENTRIES, 0xFFFFFFFF])
def test_grants_reference_beyond_the_table_is_refused(guest: Guest, ref: int) -> None:
    """No entry is looked for outside of the table."""
    assert guest.map_one(ref) is GrantStatus.BAD_GNTREF


def test_grants_one_bad_reference_maps_none(guest: Guest) -> None:
    """All or nothing; each element has its status, and no mark stays behind."""
    guest.write(8, OFFERED)
    guest.write(10, OFFERED)

    good, elements = guest.table.map([8, 9, 10], 0, writable=True)

    assert not good
    assert [at.status for at in elements] == [OK, GrantStatus.BAD_GNTREF, OK]
    assert guest.table.mapped == 0
    assert guest.flags(8) == guest.flags(10) == OFFERED


def test_grants_marks_go_with_the_last_mapping_of_their_kind(guest: Guest) -> None:
    """GTF_writing goes with the last writable mapping, GTF_reading with the last one."""
    guest.write(8, OFFERED)
    seen = []
    for writable in (False, True, True):
        guest.map_one(8, writable=writable)
        seen.append(guest.flags(8))
    for writable in (True, True, False):
        guest.table.unmap([8], writable=writable)
        seen.append(guest.flags(8))

    reading, both = OFFERED | GrantFlags.READING, OFFERED | GrantFlags.READING | GrantFlags.WRITING
    assert seen == [reading, both, both, both, reading, OFFERED]


def test_grants_entry_rewritten_while_mapped_keeps_the_first_frame(guest: Guest) -> None:
    """A hostile owner cannot make a second mapping show another page than the first."""
    guest.write(8, OFFERED)
    guest.map_one(8)
    guest.write(8, OFFERED, frame=FRAME + 1)

    _, elements = guest.table.map([8], 0, writable=True)

    assert elements[0].frame == FRAME


def test_grants_entry_wiped_while_mapped_is_released_without_harm(guest: Guest) -> None:
    """The counts, not the marks in the guest's memory, say what is mapped."""
    guest.write(8, OFFERED)
    guest.map_one(8)
    guest.write(8, 0)

    guest.table.unmap([8], writable=True)

    assert guest.table.mapped == 0
    assert guest.map_one(8) is GrantStatus.BAD_GNTREF


def test_grants_readonly_mapping_does_not_become_writable(guest: Guest) -> None:
    """Mapped read-only, a read-only entry is still refused to a writer."""
    guest.write(8, READONLY)
    guest.map_one(8, writable=False)

    assert guest.map_one(8, writable=True) is GrantStatus.PERMISSION_DENIED


def test_grants_second_domain_on_a_mapped_entry_is_refused(guest: Guest) -> None:
    """An entry rewritten for another domain is that domain's only when it is not mapped."""
    guest.write(8, OFFERED)
    guest.map_one(8)
    guest.write(8, OFFERED, domid=5)

    assert guest.map_one(8, domid=5) is GrantStatus.GENERAL_ERROR


def test_grants_dead_domain_maps_nothing_but_counts_what_is_mapped(guest: Guest) -> None:
    """After death mapping fails; mappings that are there can still be released."""
    guest.write(8, OFFERED)
    guest.map_one(8)
    guest.table.close()

    assert guest.map_one(8) is GrantStatus.BAD_DOMAIN
    guest.table.unmap([8], writable=True)
    assert guest.table.mapped == 0


def test_grants_same_reference_twice_in_one_call_counts_twice(guest: Guest) -> None:
    """A batch may name a reference more than once, and undoing a failed one is exact."""
    guest.write(8, OFFERED)
    guest.table.map([8, 8, 9], 0, writable=True)
    assert guest.table.mapped == 0

    good, _ = guest.table.map([8, 8], 0, writable=True)

    assert good
    assert guest.table.mapped == 2
    assert len(guest.entries) == GRANT_ENTRIES * GRANT_ENTRY.size <= 32 * PAGE_SIZE
