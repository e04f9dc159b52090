# SPDX-License-Identifier: MIT
"""Frontend nodes no honest frontend writes: the device closes with a reason, and may try again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from shared.embedded.domain import Domain
from shared.embedded.protocol import GRANT_ENTRIES
from shared.xenbus import XenbusState
from tests.process.lab_world import DEADLINE, Guest, World, running_world

EPROTO = 71
Nodes = dict[str, bytes]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A running xenbackd with a neighbour."""
    with running_world() as it:
        yield it


def offer(domain: Domain) -> Nodes:
    """The nodes of an honest frontend with a ring of one page."""
    [frame] = domain.alloc_pages(1)
    domain.page(frame)[:] = bytes(4096)
    return {
        "ring-ref": b"%d" % domain.grant(frame, domid=0),
        "event-channel": b"%d" % domain.alloc_port(0),
        "protocol": b"x86_64-abi",
    }


def publish(guest: Guest, nodes: Nodes) -> None:
    """Write the nodes and say that they are there, whatever they are."""
    guest.wait_backend(XenbusState.INIT_WAIT)

    def write(tx: int) -> None:
        for name, value in nodes.items():
            guest.xs.write(f"{guest.frontend}/{name}", value, tx)
        guest.xs.write(f"{guest.frontend}/state", XenbusState.INITIALISED.to_wire(), tx)

    guest.xs.transact(write)


def refused(world: World, guest: Guest, *said: str) -> None:
    """The reason stands everywhere, the device closes, and its guest may connect afterwards."""
    status = world.wait_error(guest, *said, errno=EPROTO)
    assert status.hold in ("", "guest")
    reasons = [line for line in world.log_of(guest) if " WARNING " in line and "held:" not in line]
    assert len(reasons) == 1, reasons  # not once by the worker and once by the supervisor
    guest.wait_backend(XenbusState.CLOSED)
    guest.disk.advance()
    guest.disk.restart()
    guest.disk.connect(DEADLINE)
    guest.works()
    error = f"/local/domain/0/error/backend/{guest.device}/error"
    world.lab.wait(lambda: guest.dom0.read_or_none(error) is None, DEADLINE, "error to go")
    assert world.lab.wait_connected(guest.device).failures == 0


BAD = [
    # name, value (None: missing), what is said
    ("ring-ref", None, "missing"),
    ("ring-ref", b"", "not a decimal number"),
    ("ring-ref", b"eight", "not a decimal number"),
    ("ring-ref", b"8\x00", "not a decimal number"),
    ("ring-ref", b"-1", "-1 is not in"),
    ("ring-ref", b"4294967296", "4294967296 is not in"),
    ("ring-ref", b"9" * 2000, "not a decimal number"),
    ("event-channel", None, "missing"),
    ("event-channel", b"", "not a decimal number"),
    ("event-channel", b"\xff\xfe", "not a decimal number"),
    ("event-channel", b"-9223372036854775808", "is not in"),
    ("event-channel", b"18446744073709551617", "is not in"),
    ("ring-page-order", b"", "not a decimal number"),
    ("ring-page-order", b"-1", "-1 is not in"),
    ("ring-page-order", b"5", "5 is not in 0..4"),
    ("ring-page-order", b"4294967295", "4294967295 is not in"),
    ("protocol", b"", "is none of"),
    ("protocol", b"sparc-abi", "is none of"),
    ("protocol", b"7" * 2000, "is none of"),
    ("feature-persistent", b"-1", "-1 is not in"),
]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    BAD,
    ids=[
        f"{name}_{'missing' if value is None else value[:12].decode('latin1')}"
        for name, value, _ in BAD
    ],
)
def test_bad_frontend_node_closes_this_device_and_names_the_node(
    world: World, name: str, value: bytes | None, said: str
) -> None:
    """Missing, empty, no number, negative, huge: named, closed, and open for another try."""
    with world.untouched(), world.guest() as guest:
        nodes = offer(guest.domain)
        nodes.pop(name, None)
        if value is not None:
            nodes[name] = value
        publish(guest, nodes)
        refused(world, guest, f"frontend node: {name}", said)


def _second_missing(domain: Domain, nodes: Nodes) -> str:
    nodes |= {"ring-page-order": b"1", "ring-ref0": nodes.pop("ring-ref")}
    return "frontend node: ring-ref1: missing"


def _same_twice(domain: Domain, nodes: Nodes) -> str:
    ref = nodes.pop("ring-ref")
    nodes |= {"ring-page-order": b"1", "ring-ref0": ref, "ring-ref1": ref}
    return "is given twice"


def _not_granted(domain: Domain, nodes: Nodes) -> str:
    nodes["ring-ref"] = b"4000"
    return "4000"


def _beyond_the_table(domain: Domain, nodes: Nodes) -> str:
    nodes["ring-ref"] = b"%d" % GRANT_ENTRIES
    return str(GRANT_ENTRIES)


def _for_another_domain(domain: Domain, nodes: Nodes) -> str:
    ref = domain.grant(domain.alloc_pages(1)[0], domid=77)
    nodes["ring-ref"] = b"%d" % ref
    return str(ref)


def _readonly(domain: Domain, nodes: Nodes) -> str:
    ref = domain.grant(domain.alloc_pages(1)[0], domid=0, readonly=True)
    nodes["ring-ref"] = b"%d" % ref
    return str(ref)


def _second_page_not_granted(domain: Domain, nodes: Nodes) -> str:
    ref = nodes.pop("ring-ref")
    nodes |= {"ring-page-order": b"1", "ring-ref0": ref, "ring-ref1": b"4000"}
    return "4000"


def _no_such_port(domain: Domain, nodes: Nodes) -> str:
    nodes["event-channel"] = b"900"
    return "900"


def _port_beyond_all(domain: Domain, nodes: Nodes) -> str:
    nodes["event-channel"] = b"2147483647"
    return "2147483647"


def _port_for_another_domain(domain: Domain, nodes: Nodes) -> str:
    port = domain.alloc_port(77)
    nodes["event-channel"] = b"%d" % port
    return str(port)


def _port_closed(domain: Domain, nodes: Nodes) -> str:
    port = domain.alloc_port(0)
    domain.close_port(port)
    nodes["event-channel"] = b"%d" % port
    return str(port)


@pytest.mark.parametrize(
    "spoil",
    [
        _second_missing,
        _same_twice,
        _not_granted,
        _beyond_the_table,
        _for_another_domain,
        _readonly,
        _second_page_not_granted,
        _no_such_port,
        _port_beyond_all,
        _port_for_another_domain,
        _port_closed,
    ],
    ids=lambda spoil: spoil.__name__[1:],
)
def test_bad_ring_or_port_closes_this_device_and_keeps_nothing(
    world: World, spoil: Callable[[Domain, Nodes], str]
) -> None:
    """Pages and ports that are not the backend's to use: refused, and what was mapped is back."""
    with world.untouched(), world.guest() as guest:
        nodes = offer(guest.domain)
        granted = int(nodes["ring-ref"])
        said = spoil(guest.domain, nodes)
        publish(guest, nodes)
        world.wait_error(guest, said, errno=EPROTO)
        guest.wait_backend(XenbusState.CLOSED)
        assert guest.domain.end_access(granted)
        refused(world, guest, said)


@pytest.mark.parametrize("state", [b"", b"nonsense", b"-3", b"9" * 20])
def test_bad_frontend_state_is_nobody_there(world: World, state: bytes) -> None:
    """No state of xenbus: the backend waits, and serves once the frontend comes to its senses."""
    with world.untouched(), world.guest() as guest:
        guest.wait_backend(XenbusState.INIT_WAIT)
        guest.xs.write(f"{guest.frontend}/state", state)
        world.lab.wait_device(guest.device, lambda now: now.frontend in ("INVALID", "Unknown"))
        guest.xs.write(f"{guest.frontend}/state", b"1")
        guest.disk.connect(DEADLINE)
        guest.works()


def test_bad_frontend_node_with_an_endless_name_closes_this_device(world: World) -> None:
    """What is handed to a worker has bounds; what lies beyond is the guest's fault."""
    with world.untouched(), world.guest() as guest:
        name = "n" * 200
        publish(guest, offer(guest.domain) | {name: b"x"})
        world.wait_error(guest, "frontend directory", "is too long", errno=EPROTO)
        guest.wait_backend(XenbusState.CLOSED)
        guest.xs.rm(f"{guest.frontend}/{name}")
        refused(world, guest, "is too long")
