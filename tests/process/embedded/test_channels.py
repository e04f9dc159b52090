# SPDX-License-Identifier: MIT
"""Event channels of the embedded hypervisor between processes that live and die."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedded.domain import Domain
from embedded.handles import EmbeddedEventChannels, EmbeddedHypervisor
from embedded.hypercalls import Hypercalls
from shared.errors import BackendBug, GuestFault, HostError
from shared.hypervisor.interface import Handles, Port
from tests.process.embedded.embedded_world import Child, nothing_leaked, running_hypervisor


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A hypervisor for the whole module: its tests are also about leaving nothing in it."""
    with running_hypervisor() as path:
        yield path


@pytest.fixture
def guest(directory: Path) -> Iterator[Domain]:
    """A domain; whatever a test did, nothing of it must remain."""
    with nothing_leaked(directory), Domain.create(directory, "guest", pages=64) as domain:
        yield domain


@pytest.fixture
def backend(directory: Path, guest: Domain) -> Iterator[Handles]:
    """Dom0's handles."""
    handles = EmbeddedHypervisor(directory).open_handles(grants=False)
    yield handles
    handles.close()


def readable(descriptor: int, timeout: float = 0) -> bool:
    """Whether a poller would wake up."""
    return bool(select.select([descriptor], [], [], timeout)[0])


def bound(guest: Domain, backend: Handles) -> tuple[Port, Port]:
    """A bound channel, its first event taken: the guest's port and ours."""
    theirs = guest.alloc_port()
    ours = backend.event_channels.bind_interdomain(guest.domid, theirs)
    assert backend.event_channels.pending() == ours
    backend.event_channels.unmask(ours)
    return theirs, ours


def test_channels_bind_starts_with_the_port_pending(guest: Domain, backend: Handles) -> None:
    """A fresh binding is pending once, as on Xen, though nobody sent an event."""
    port = backend.event_channels.bind_interdomain(guest.domid, guest.alloc_port())

    assert readable(backend.event_channels.fileno())
    assert backend.event_channels.pending() == port
    assert backend.event_channels.pending() is None


def test_channels_events_pass_in_both_directions(guest: Domain, backend: Handles) -> None:
    """Notify at one end makes the port of the other end pending, and only that."""
    theirs, ours = bound(guest, backend)

    guest.notify(theirs)
    assert backend.event_channels.pending() == ours
    assert guest.pending() is None
    backend.event_channels.notify(ours)
    assert guest.pending() == theirs


def test_channels_pending_port_is_masked_until_unmasked(guest: Domain, backend: Handles) -> None:
    """Events sent while masked wake nobody, and are one event when unmasked."""
    theirs, ours = bound(guest, backend)
    events = backend.event_channels
    guest.notify(theirs)
    assert events.pending() == ours

    for _ in range(3):
        guest.notify(theirs)
    assert not readable(events.fileno())
    events.unmask(ours)

    assert readable(events.fileno())
    assert events.pending() == ours
    events.unmask(ours)
    assert events.pending() is None


def test_channels_unmask_without_event_stays_silent(guest: Domain, backend: Handles) -> None:
    """Unmasking does not make a port pending by itself."""
    bound(guest, backend)

    assert not readable(backend.event_channels.fileno())


def test_channels_spurious_wake_up_looks_like_an_event(guest: Domain, backend: Handles) -> None:
    """On demand a port gets pending though the peer sent nothing."""
    _, ours = bound(guest, backend)
    assert isinstance(backend.event_channels, EmbeddedEventChannels)

    backend.event_channels.cause_spurious(ours)

    assert backend.event_channels.pending() == ours


def test_channels_many_ports_of_one_handle_are_told_apart(guest: Domain, backend: Handles) -> None:
    """Each event is reported with its own port."""
    pairs = [bound(guest, backend) for _ in range(20)]

    for theirs, _ in pairs[::3]:
        guest.notify(theirs)
    taken = set()
    while (port := backend.event_channels.pending()) is not None:
        taken.add(port)

    assert taken == {ours for _, ours in pairs[::3]}


def test_s22_channels_rebind_after_the_binder_was_killed(directory: Path, guest: Domain) -> None:
    """SIGKILL of the binder makes the guest's port unbound; the successor binds it at once."""
    port = guest.alloc_port()

    def bind() -> str:
        handles = EmbeddedHypervisor(directory).open_handles(grants=False)
        handles.event_channels.bind_interdomain(guest.domid, port)
        return "bound"

    for _ in range(3):
        with Child(bind) as binder:
            assert binder.result() == "bound"
            handles = EmbeddedHypervisor(directory).open_handles(grants=False)
            with pytest.raises(GuestFault, match="no port that is unbound"):
                handles.event_channels.bind_interdomain(guest.domid, port)
            binder.kill()
        ours = handles.event_channels.bind_interdomain(guest.domid, port)
        guest.notify(port)
        assert handles.event_channels.pending() == ours
        handles.close()


def test_channels_events_sent_while_unbound_are_lost(guest: Domain, backend: Handles) -> None:
    """What was sent to nobody is no event of the next binder, who has its one pending anyway."""
    theirs, ours = bound(guest, backend)
    backend.event_channels.unbind(ours)
    for _ in range(5):
        guest.notify(theirs)

    again = backend.event_channels.bind_interdomain(guest.domid, theirs)

    assert backend.event_channels.pending() == again
    backend.event_channels.unmask(again)
    assert backend.event_channels.pending() is None


def test_s22_channels_unbind_twice_is_refused_without_harm(guest: Domain, backend: Handles) -> None:
    """Unbinding what is not bound is our bug, and is said so."""
    _, ours = bound(guest, backend)
    backend.event_channels.unbind(ours)

    with pytest.raises(BackendBug, match=f"port {ours}"):
        backend.event_channels.unbind(ours)
    with pytest.raises(BackendBug):
        backend.event_channels.notify(ours)
    with pytest.raises(BackendBug):
        backend.event_channels.unmask(ours)


def test_channels_closed_by_the_guest_can_be_unbound(guest: Domain, backend: Handles) -> None:
    """A guest that closes its port leaves ours usable: events are lost, unbinding works."""
    theirs, ours = bound(guest, backend)
    guest.close_port(theirs)

    backend.event_channels.notify(ours)
    backend.event_channels.unbind(ours)

    with pytest.raises(GuestFault):
        backend.event_channels.bind_interdomain(guest.domid, theirs)


def test_channels_bind_to_a_wrong_port_or_domain_is_the_guests_fault(
    directory: Path, guest: Domain, backend: Handles
) -> None:
    """Absent port, port for another domain, absent domain, impossible numbers: all typed."""
    foreign = guest.alloc_port(remote_domid=guest.domid + 1)

    for port in (foreign, 4000, 0, 0xFFFFFFFF, 1 << 32, -1):
        with pytest.raises(GuestFault, match=f"port {port} of domain {guest.domid}"):
            backend.event_channels.bind_interdomain(guest.domid, port)
    with pytest.raises(GuestFault, match="no such domain"):
        backend.event_channels.bind_interdomain(0x7000, 1)


def test_channels_restricted_handle_binds_to_its_domain_only(
    directory: Path, guest: Domain, backend: Handles
) -> None:
    """A restriction holds for ever, also against a second one; bound channels go on working."""
    theirs, ours = bound(guest, backend)
    with Domain.create(directory, "other", pages=64) as other:
        backend.event_channels.restrict(guest.domid)

        with pytest.raises(BackendBug, match="Permission denied"):
            backend.event_channels.bind_interdomain(other.domid, other.alloc_port())
        with pytest.raises(BackendBug, match="Permission denied"):
            backend.event_channels.restrict(other.domid)
    guest.notify(theirs)
    assert backend.event_channels.pending() == ours
    backend.event_channels.bind_interdomain(guest.domid, guest.alloc_port())


def test_channels_killed_guest_frees_its_ports(directory: Path) -> None:
    """A guest process killed with bound channels leaves neither ports nor a domain behind."""
    with nothing_leaked(directory):
        handles = EmbeddedHypervisor(directory).open_handles(grants=False)

        def live() -> str:
            guest = Domain.create(directory, "victim", pages=64)
            globals()["_kept"] = guest
            return f"{guest.domid} {guest.alloc_port()}"

        with Child(live) as process:
            domid, port = map(int, process.result().split())
            ours = handles.event_channels.bind_interdomain(domid, port)
            process.kill()
            with pytest.raises(GuestFault, match="no such domain"):
                handles.event_channels.bind_interdomain(domid, port)
            handles.event_channels.notify(ours)
            handles.event_channels.unbind(ours)
        handles.close()


def test_channels_events_between_two_processes_wake_the_sleeper(
    directory: Path, guest: Domain, backend: Handles
) -> None:
    """A child of dom0 sleeps on its descriptor and answers every event, for many rounds."""
    rounds = 500
    port = guest.alloc_port()

    def echo() -> str:
        events = EmbeddedHypervisor(directory).open_handles(grants=False).event_channels
        ours = events.bind_interdomain(guest.domid, port)
        os.write(tell, b"+")
        while True:
            assert readable(events.fileno(), 5)
            assert events.pending() == ours
            events.unmask(ours)
            events.notify(ours)

    wait, tell = os.pipe()
    with Child(echo):
        assert os.read(wait, 1) == b"+"
        for _ in range(rounds):
            guest.notify(port)
            assert readable(guest.fileno(), 5)
            assert guest.pending() == port
            guest.unmask(port)
    os.close(wait)
    os.close(tell)


def test_channels_hypervisor_gone_is_a_host_error_and_wakes_the_sleeper() -> None:
    """When the hypervisor dies, pollers wake up and every call says who is at fault."""
    with running_hypervisor() as directory:
        handles = EmbeddedHypervisor(directory).open_handles(grants=False)
        guest = Domain.create(directory, pages=64)

    assert readable(handles.event_channels.fileno(), 5)
    with pytest.raises(HostError, match="hypervisor is gone"):
        handles.event_channels.pending()
    with pytest.raises(HostError, match="hypervisor is gone"):
        handles.event_channels.bind_interdomain(guest.domid, 1)
    handles.close()
    guest.close()
    with pytest.raises(HostError, match="open handle"):
        EmbeddedHypervisor(directory).open_handles(grants=True)


def test_channels_guest_may_not_manage_domains(directory: Path, guest: Domain) -> None:
    """Creating, destroying, listing and counting is dom0's business."""
    with Hypercalls(directory, guest.domid) as hypercalls:
        for call in (
            hypercalls.create_domain,
            lambda: hypercalls.destroy_domain(guest.domid),
            hypercalls.list_domains,
            hypercalls.stats,
        ):
            with pytest.raises(HostError, match="only dom0"):
                call()
