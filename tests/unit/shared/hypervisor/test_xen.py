# SPDX-License-Identifier: MIT
"""Real Xen's side of the hypervisor interface, over libraries that are ours."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.errors import BackendBug, GuestFault, HostError
from shared.hypervisor.interface import GrantTable, Handles
from shared.hypervisor.libraries import Library
from shared.hypervisor.native._xen import ffi, lib
from shared.hypervisor.xen import XenHypervisor
from tests.fakes.libxen import DOMAIN, FakeXen, build


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled libraries."""
    return build(tmp_path_factory.mktemp("libxen"))


@pytest.fixture
def xen(library: Path) -> FakeXen:
    """Fresh state."""
    return FakeXen(library)


@pytest.fixture
def handles(xen: FakeXen) -> Iterator[Handles]:
    """Both handles, open."""
    handles = xen.open()
    yield handles
    handles.close()


@pytest.fixture
def grants(handles: Handles) -> GrantTable:
    """The grant table."""
    assert handles.grant_table is not None
    return handles.grant_table


def test_xen_copy_segment_has_the_layout_of_the_library() -> None:
    """xengnttab_grant_copy_segment_t: two ends of 8 bytes, three words of 2, padded to 24."""
    segment = ffi.typeof("struct xen_copy_segment")
    foreign = dict(ffi.typeof("union xen_copy_end").fields)["foreign"].type

    assert ffi.sizeof("struct xen_copy_segment") == 24
    assert [(name, field.offset) for name, field in segment.fields] == [
        ("source", 0),
        ("dest", 8),
        ("len", 16),
        ("flags", 18),
        ("status", 20),
    ]
    assert [(name, field.offset) for name, field in foreign.fields] == [
        ("ref", 0),
        ("offset", 4),
        ("domid", 6),
    ]


def test_xen_missing_library_names_the_package() -> None:
    """Without libxengnttab nothing can be served; the message says what to install."""
    missing = Library("libxengnttab", ("libnothere.so.1", "libnothere.so.2"), "libxengnttab1")

    with pytest.raises(HostError, match=r"nothere\.so\.1.*nothere\.so\.2.*install libxengnttab1"):
        XenHypervisor(missing, missing).open_handles(grants=True)


def test_xen_library_without_a_call_says_which() -> None:
    """A library that is not the one we mean is refused by the name of the missing call."""
    wrong = Library("libxenevtchn", ("libc.so.6",), "libxenevtchn1")

    with pytest.raises(HostError, match=r"libc\.so\.6: has no xenevtchn_open"):
        XenHypervisor(wrong, wrong).open_handles(grants=False)


@pytest.mark.parametrize(("code", "remedy"), [(errno.ENOENT, "modprobe"), (errno.EACCES, "root")])
def test_xen_device_that_does_not_open_is_the_hosts_failure(
    xen: FakeXen, code: int, remedy: str
) -> None:
    """The device and a remedy are named."""
    xen.state.open_error = code

    with pytest.raises(HostError, match=rf"open handle: /dev/xen/evtchn: .*{remedy}"):
        xen.open()


def test_xen_close_closes_both_and_unmaps_what_is_left(xen: FakeXen) -> None:
    """On Linux a mapping outlives the descriptor, so closing unmaps first. Twice is once."""
    handles = xen.open()
    assert handles.grant_table is not None
    mapping = handles.grant_table.map(DOMAIN, [1, 2, 3], writable=True)
    assert xen.state.mapped == 3

    handles.close()
    handles.close()
    mapping.unmap()

    assert (xen.state.mapped, xen.state.opened, xen.state.closed) == (0, 2, 2)
    with pytest.raises(BackendBug, match="closed"):
        handles.grant_table.map(DOMAIN, [1], writable=True)


def test_xen_bind_gives_the_local_port(handles: Handles) -> None:
    """The number is the library's."""
    assert handles.event_channels.bind_interdomain(DOMAIN, 5) == 105


@pytest.mark.parametrize(
    ("domid", "port", "code", "error", "text"),
    [
        (9, 5, 0, GuestFault, "there is no such domain"),
        (DOMAIN, 5, errno.EINVAL, GuestFault, "unbound and kept for us"),
        (DOMAIN, 1 << 32, 0, GuestFault, "no such port"),
        (DOMAIN, 5, errno.ENOSPC, HostError, "No space"),
        (DOMAIN, 5, errno.EACCES, BackendBug, "Permission denied"),
    ],
)
def test_xen_bind_that_fails_says_whose_fault(
    xen: FakeXen,
    handles: Handles,
    domid: int,
    port: int,
    code: int,
    error: type[Exception],
    text: str,
) -> None:
    """What the guest wrote is the guest's fault, the rest is the host's or ours."""
    xen.state.call_error = code

    with pytest.raises(error, match=text):
        handles.event_channels.bind_interdomain(domid, port)
    xen.state.call_error = 0


def test_xen_pending_without_events_does_not_wait(xen: FakeXen, handles: Handles) -> None:
    """The library's call would wait for an event; ours looks at the descriptor first."""
    channels = handles.event_channels

    assert channels.pending() is None
    channels.notify(channels.bind_interdomain(DOMAIN, 5))
    assert channels.pending() == 105
    assert channels.pending() is None
    assert xen.state.events == 1


def test_xen_calls_on_a_port_reach_the_library(xen: FakeXen, handles: Handles) -> None:
    """Unmask, unbind, restrict with their arguments."""
    channels = handles.event_channels
    port = channels.bind_interdomain(DOMAIN, 5)
    channels.unmask(port)
    channels.unbind(port)
    channels.restrict(DOMAIN)

    state = xen.state
    assert (state.unmasked, state.unbound, state.restricted) == (105, 105, DOMAIN)


def test_xen_map_lays_pages_side_by_side(xen: FakeXen, grants: GrantTable) -> None:
    """One call for all references, in their order."""
    xen.page(4)[:3] = b"abc"
    xen.page(2)[:3] = b"def"

    mapping = grants.map(DOMAIN, [4, 2], writable=False)

    assert (bytes(mapping.buffer[:3]), bytes(mapping.buffer[4096:4099])) == (b"abc", b"def")
    assert xen.state.maps == 1
    mapping.unmap()
    mapping.unmap()
    assert xen.state.mapped == 0


@pytest.mark.parametrize(
    ("bad_ref", "readonly_ref", "cause"),
    [(5, -1, "reference 5 .*bad gntref"), (-1, 6, "reference 6 .*permission denied")],
)
def test_xen_map_that_fails_names_the_reference(
    xen: FakeXen, grants: GrantTable, bad_ref: int, readonly_ref: int, cause: str
) -> None:
    """The library only says that a map failed; which reference is to blame is found out."""
    xen.state.bad_ref, xen.state.readonly_ref = bad_ref, readonly_ref

    with pytest.raises(GuestFault, match=cause):
        grants.map(DOMAIN, [4, 5, 6], writable=True)
    assert xen.state.mapped == 0


def test_xen_map_of_a_dead_domain_is_nobodys_bug(grants: GrantTable) -> None:
    """A guest that is gone cannot be mapped: its fault, so nothing is retried."""
    with pytest.raises(GuestFault, match="bad domain"):
        grants.map(9, [1], writable=True)


def test_xen_map_without_memory_is_the_hosts_failure(xen: FakeXen, grants: GrantTable) -> None:
    """All references are good, so the errno stands."""
    xen.state.map_error = errno.ENOMEM

    with pytest.raises(HostError, match="Cannot allocate memory"):
        grants.map(DOMAIN, [1, 2], writable=True)


def test_xen_copy_goes_both_ways(xen: FakeXen, grants: GrantTable) -> None:
    """Bytes arrive at their offset."""
    grants.copy_to(DOMAIN, 7, 100, b"hello")

    assert grants.copy_from(DOMAIN, 7, 102, 3) == b"llo"
    assert bytes(xen.page(7)[100:105]) == b"hello"


def test_xen_copy_that_is_refused_names_the_reference(xen: FakeXen, grants: GrantTable) -> None:
    """A status is the guest's fault, an errno of the call is not."""
    xen.state.readonly_ref = 7
    with pytest.raises(GuestFault, match="reference 7 of domain 3: permission denied"):
        grants.copy_to(DOMAIN, 7, 0, b"x")

    xen.state.copy_error = errno.ENOMEM
    with pytest.raises(HostError, match="Cannot allocate"):
        grants.copy_from(DOMAIN, 7, 0, 1)


def test_xen_set_max_grants_reaches_the_library(xen: FakeXen, grants: GrantTable) -> None:
    """Kernels that no longer know the call make the library answer that all is well."""
    grants.set_max_grants(77)

    assert xen.state.max_grants == 77


def test_xen_copy_of_a_long_list_has_a_status_for_each(xen: FakeXen, grants: GrantTable) -> None:
    """More elements than one call takes; one bad reference and one beyond its page stay alone."""
    count = lib.XEN_COPY_BATCH + 40
    xen.state.bad_ref = 9
    local = ffi.new("uint8_t[]", 16)
    elements = ffi.new("struct hv_copy[]", count)
    for i in range(count):
        elements[i] = {"local": local, "ref": 1, "offset": 0, "length": 16, "to_guest": 0}
    elements[3].ref = 9
    elements[5].offset = 4090

    native = grants.native  # type: ignore[attr-defined]
    assert lib.xen_gnttab_copy(native, DOMAIN, elements, count) == 0

    odd = {i: elements[i].status for i in range(count) if elements[i].status}
    assert odd == {3: -3, 5: -10}
    assert xen.state.copies == 2
