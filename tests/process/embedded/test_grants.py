# SPDX-License-Identifier: MIT
"""Grants of the embedded hypervisor: mapping and copying memory of domains that live and die."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from embedded.domain import Domain
from embedded.handles import EmbeddedHypervisor
from embedded.hypercalls import Hypercalls
from embedded.native._embedded import ffi, lib
from embedded.protocol import FIRST_FRAME, GRANT_ENTRIES, GrantFlags
from shared.errors import BackendBug, GuestFault, HostError
from shared.hypervisor.interface import PAGE_SIZE, GrantTable, Handles
from tests.process.embedded.embedded_world import Child, nothing_leaked, running_hypervisor


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A hypervisor for the whole module."""
    with running_hypervisor() as path:
        yield path


@pytest.fixture
def guest(directory: Path) -> Iterator[Domain]:
    """A domain of 128 pages; whatever a test did, nothing of it must remain."""
    with nothing_leaked(directory), Domain.create(directory, "guest", pages=128) as domain:
        yield domain


@pytest.fixture
def handles(directory: Path, guest: Domain) -> Iterator[Handles]:
    """Dom0's handles."""
    opened = EmbeddedHypervisor(directory).open_handles(grants=True)
    yield opened
    opened.close()


@pytest.fixture
def table(handles: Handles) -> GrantTable:
    """Dom0's grant-table handle."""
    assert handles.grant_table is not None
    return handles.grant_table


def offer(guest: Domain, content: bytes = b"", *, readonly: bool = False) -> int:
    """Grant a fresh page that begins with `content` to dom0."""
    (frame,) = guest.alloc_pages(1)
    guest.page(frame)[: len(content)] = content
    return guest.grant(frame, readonly=readonly)


def test_grants_map_shows_the_pages_in_the_order_asked_for(
    guest: Domain, table: GrantTable
) -> None:
    """Scattered frames stand side by side, and both sides see each other's writes."""
    frames = guest.alloc_pages(5)
    order = [frames[3], frames[0], frames[1], frames[4], frames[2]]
    for number, frame in enumerate(order):
        guest.page(frame)[0] = number

    mapping = table.map(guest.domid, [guest.grant(frame) for frame in order], writable=True)

    assert [mapping.buffer[n * PAGE_SIZE] for n in range(5)] == [0, 1, 2, 3, 4]
    mapping.buffer[4 * PAGE_SIZE + 7] = 99
    assert guest.page(frames[2])[7] == 99
    mapping.unmap()
    mapping.unmap()


def test_grants_map_of_a_bad_reference_names_it_and_maps_none(
    guest: Domain, table: GrantTable
) -> None:
    """All or nothing; the error says which reference and why."""
    good, readonly = offer(guest), offer(guest, readonly=True)

    with pytest.raises(GuestFault, match=f"reference {readonly} of domain .*permission denied"):
        table.map(guest.domid, [good, readonly], writable=True)
    for bad in (good + 100, GRANT_ENTRIES, 0xFFFFFFFF, 1 << 32, -1):
        with pytest.raises(GuestFault, match=f"reference {bad} of domain .*bad gntref"):
            table.map(guest.domid, [good, bad], writable=False)
    assert guest.end_access(good)


def test_grants_native_map_gives_a_status_for_each_element(guest: Domain, handles: Handles) -> None:
    """The C interface returns NULL, errno and the status of every reference."""
    refs = ffi.new("uint32_t[]", [offer(guest), 9999, offer(guest, readonly=True)])
    statuses = ffi.new("int16_t[]", 3)
    native = handles.grant_table._handle.native  # type: ignore[union-attr]

    area = lib.embedded_map(native, guest.domid, refs, 3, 1, statuses)

    assert area == ffi.NULL
    assert list(statuses) == [0, -3, -8]


def test_grants_readonly_page_is_mapped_without_write_permission(
    directory: Path, guest: Domain, table: GrantTable
) -> None:
    """Writing into a read-only mapping ends the process that does it, not the guest's data."""
    ref = offer(guest, b"keep", readonly=True)

    def write() -> str:
        own = EmbeddedHypervisor(directory).open_handles(grants=True).grant_table
        assert own is not None
        mapping = own.map(guest.domid, [ref], writable=False)
        ffi.memmove(ffi.cast("char *", mapping.address), b"lost", 4)
        return "written"

    with Child(write) as writer:
        assert writer.result() == ""
    mapping = table.map(guest.domid, [ref], writable=False)
    assert bytes(mapping.buffer[:4]) == b"keep"
    with pytest.raises(GuestFault, match="permission denied"):
        table.copy_to(guest.domid, ref, 0, b"lost")


def test_grants_revoke_fails_while_mapped_and_works_after(guest: Domain, table: GrantTable) -> None:
    """The owner cannot take a page back that is in use; it sees the marks."""
    ref = offer(guest)
    mapping = table.map(guest.domid, [ref], writable=True)

    assert not guest.end_access(ref)
    assert guest.read_grant_entry(ref)[0] & GrantFlags.WRITING
    mapping.unmap()

    assert guest.end_access(ref)
    with pytest.raises(GuestFault, match="bad gntref"):
        table.map(guest.domid, [ref], writable=True)


def test_grants_released_when_the_mapper_was_killed(directory: Path, guest: Domain) -> None:
    """SIGKILL of a worker gives the guest all its pages back."""
    refs = [offer(guest) for _ in range(8)]

    def map_all() -> str:
        own = EmbeddedHypervisor(directory).open_handles(grants=True).grant_table
        assert own is not None
        globals()["_kept"] = own, own.map(guest.domid, refs, writable=True)
        return "mapped"

    with Child(map_all) as mapper, Hypercalls(directory) as hypercalls:
        assert mapper.result() == "mapped"
        assert hypercalls.stats().domains[guest.domid].mapped == 8
        assert not guest.end_access(refs[0])
        mapper.kill()
        assert hypercalls.stats().domains[guest.domid].mapped == 0
    assert all(guest.end_access(ref) for ref in refs)


def test_grants_to_another_domain_are_not_for_us(
    directory: Path, guest: Domain, table: GrantTable
) -> None:
    """A page granted to one domain can be mapped and copied by that domain only."""
    with Domain.create(directory, "driver", pages=64) as driver:
        (frame,) = guest.alloc_pages(1)
        ref = guest.grant(frame, driver.domid)

        for writable in (False, True):
            with pytest.raises(GuestFault, match="permission denied"):
                table.map(guest.domid, [ref], writable=writable)
        with pytest.raises(GuestFault, match="permission denied"):
            table.copy_from(guest.domid, ref, 0, 1)

        driver.grant_table.copy_to(guest.domid, ref, 0, b"driver domain")
        mapping = driver.grant_table.map(guest.domid, [ref], writable=True)
        assert bytes(mapping.buffer[:13]) == b"driver domain"
        mapping.unmap()


@pytest.mark.parametrize("frame", [0, FIRST_FRAME - 1, 128, 0xFFFFFFFF])
def test_grants_frame_outside_of_the_domain_is_refused(
    guest: Domain, table: GrantTable, frame: int
) -> None:
    """Neither header, grant table nor anything beyond the memory can be reached."""
    guest.write_grant_entry(100, GrantFlags.PERMIT_ACCESS, 0, frame)

    with pytest.raises(GuestFault, match="bad gntref"):
        table.map(guest.domid, [100], writable=True)
    with pytest.raises(GuestFault, match="bad gntref"):
        table.copy_from(guest.domid, 100, 0, 1)
    with pytest.raises(GuestFault, match="bad gntref"):
        table.copy_to(guest.domid, 100, 0, b"x")


def test_grants_copy_moves_exactly_the_bytes_asked_for(guest: Domain, table: GrantTable) -> None:
    """Both directions, up to both ends of the page, and not a byte beside."""
    (frame,) = guest.alloc_pages(1)
    ref = guest.grant(frame)
    guest.page(frame)[:] = bytes(range(256)) * 16

    assert table.copy_from(guest.domid, ref, 0, PAGE_SIZE) == bytes(range(256)) * 16
    assert table.copy_from(guest.domid, ref, 4095, 1) == b"\xff"
    assert table.copy_from(guest.domid, ref, 4096, 0) == b""
    table.copy_to(guest.domid, ref, 10, b"\0\0")
    assert bytes(guest.page(frame)[8:14]) == b"\x08\x09\0\0\x0c\x0d"
    with pytest.raises(BackendBug):
        table.copy_from(guest.domid, ref, 4095, 2)


def test_grants_native_copy_gives_a_status_for_each_element(
    guest: Domain, handles: Handles
) -> None:
    """Bad elements do not keep the good ones from being done."""
    native = handles.grant_table._handle.native  # type: ignore[union-attr]
    local = ffi.new("uint8_t[]", 4)
    ref, readonly = offer(guest, b"abcd"), offer(guest, readonly=True)
    elements = ffi.new(
        "struct hv_copy[]",
        [
            (local, 5000, 0, 4, 0, 9),
            (local, ref, 0, 4, 0, 9),
            (local, readonly, 0, 4, 1, 9),
            (local, ref, 4095, 4, 0, 9),
            (local, GRANT_ENTRIES, 0, 4, 0, 9),
        ],
    )

    assert lib.embedded_copy(native, guest.domid, elements, 5) == 0
    assert [element.status for element in elements] == [-3, 0, -8, -10, -3]
    assert bytes(ffi.buffer(local)) == b"abcd"
    assert lib.embedded_copy(native, 0x7000, elements, 5) == 0
    assert {element.status for element in elements} == {-2}


def test_grants_of_a_dead_domain_fail_but_mappings_stay_readable(
    directory: Path, table: GrantTable, guest: Domain
) -> None:
    """Death ends new maps and copies; what is mapped is there until it is unmapped."""
    victim = Domain.create(directory, "victim", pages=64)
    ref = offer(victim, b"last words")
    domid = victim.domid
    mapping = table.map(domid, [ref], writable=True)
    assert table.copy_from(domid, ref, 0, 4) == b"last"
    victim.close()

    with Hypercalls(directory) as hypercalls:
        assert hypercalls.stats().mapped_of_the_dead == 1
        with pytest.raises(GuestFault, match="bad domain"):
            table.map(domid, [ref], writable=True)
        with pytest.raises(GuestFault, match="bad domain"):
            table.copy_from(domid, ref, 0, 4)
        assert bytes(mapping.buffer[:10]) == b"last words"
        mapping.unmap()
        assert hypercalls.stats().mapped_of_the_dead == 0


def test_grants_reused_domid_is_another_domain(
    directory: Path, table: GrantTable, guest: Domain
) -> None:
    """A cached view of a dead domain is never taken for the next domain of that id."""
    first = Domain.create(directory, "first", pages=64)
    domid, ref = first.domid, offer(first, b"first")
    old = table.map(domid, [ref], writable=False)
    assert table.copy_from(domid, ref, 0, 5) == b"first"
    first.close()

    with Domain.create(directory, "second", pages=64, domid=domid) as second:
        assert offer(second, b"other") == ref
        assert table.copy_from(domid, ref, 0, 5) == b"other"
        new = table.map(domid, [ref], writable=False)
        assert bytes(new.buffer[:5]) == b"other"
        assert bytes(old.buffer[:5]) == b"first"
        new.unmap()
        old.unmap()


def test_grants_dead_domain_that_lies_about_being_alive_gets_no_map(
    directory: Path, table: GrantTable, guest: Domain
) -> None:
    """The flag in the domain's memory is only a hint; the hypervisor knows who is alive."""
    first = Domain.create(directory, "liar", pages=64)
    domid, ref = first.domid, offer(first, b"first")
    table.copy_from(domid, ref, 0, 5)
    with Hypercalls(directory) as hypercalls:
        hypercalls.destroy_domain(domid)
    first.memory[8:12] = b"\1\0\0\0"

    with pytest.raises(GuestFault, match="bad domain"):
        table.map(domid, [ref], writable=True)
    with Domain.create(directory, "second", pages=64, domid=domid) as second:
        offer(second, b"other")
        mapping = table.map(domid, [ref], writable=True)
        assert bytes(mapping.buffer[:5]) == b"other"
        mapping.unmap()
    first.close()


def test_grants_bound_of_a_handle_is_kept(guest: Domain, table: GrantTable) -> None:
    """More pages than asked for cannot be mapped; the bound cannot be changed once in use."""
    refs = [offer(guest) for _ in range(4)]
    table.set_max_grants(3)

    with pytest.raises(HostError, match="Cannot allocate memory"):
        table.map(guest.domid, refs, writable=True)
    mapping = table.map(guest.domid, refs[:3], writable=True)
    with pytest.raises(HostError):
        table.map(guest.domid, refs[:1], writable=True)
    with pytest.raises(BackendBug, match="busy"):
        table.set_max_grants(2)
    mapping.unmap()
    table.map(guest.domid, refs[1:], writable=True)


def test_grants_close_of_the_handle_unmaps_everything(guest: Domain, handles: Handles) -> None:
    """Closing is enough; mappings that are still held are harmless to unmap."""
    refs = [offer(guest) for _ in range(3)]
    assert handles.grant_table is not None
    mapping = handles.grant_table.map(guest.domid, refs, writable=True)

    handles.close()
    handles.close()

    mapping.unmap()
    assert all(guest.end_access(ref) for ref in refs)


def test_grants_thousands_of_times_leave_nothing_behind(guest: Domain, table: GrantTable) -> None:
    """Map, copy, unmap and revoke over and over: the fixture counts what is left."""
    frames = guest.alloc_pages(4)
    for _ in range(300):
        refs = [guest.grant(frame) for frame in frames]
        mapping = table.map(guest.domid, refs, writable=True)
        table.copy_from(guest.domid, refs[0], 0, 8)
        mapping.unmap()
        assert all(guest.end_access(ref) for ref in refs)
    guest.free_pages(frames)
