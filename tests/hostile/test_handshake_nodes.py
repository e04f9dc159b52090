# SPDX-License-Identifier: MIT
"""Frontend nodes no honest frontend writes: the device closes with a reason, and may try again.

Cases 1 (the directory as a whole), 3, 5, 6 and 7 of the hostile frontend. Case 8, `num-rings` and
`tag` of 9pfs, waits for that device type. Many lies share one guest: after each the device is
Closed for the reason given, the ring's page is the guest's again, and the guest may start again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from embedded.domain import Domain
from embedded.handles import EmbeddedHypervisor
from embedded.protocol import GRANT_ENTRIES
from shared.limits import SNAPSHOT_BYTES_MAX
from shared.untrusted import quote
from shared.xenbus import XenbusState
from tests.hostile.frontend import Nodes, give_back, offer, publish, say
from tests.hostile.scene import Scene
from tests.process.lab_world import DEADLINE, Guest

EPROTO = 71
NO_NUMBER = "is not a decimal number"
NO_PROTOCOL = "is none of"


def lie(scene: Scene, guest: Guest, nodes: Nodes, *said: str) -> None:
    """Tell the backend this; it must refuse with these words."""
    scene.forget_error(guest)
    publish(guest, nodes)
    scene.refused(guest, *said)
    say(guest, XenbusState.INITIALISING)


def spoilt(guest: Guest, name: str, value: bytes | None) -> Nodes:
    """An honest offer but for one node; None: missing."""
    nodes = offer(guest.domain)
    nodes.pop(name, None)
    return nodes if value is None else nodes | {name: value}


BAD_NUMBERS = [
    # name, value (None: missing), what is said beside the name
    ("ring-ref", None, "missing"),
    ("ring-ref", b"", NO_NUMBER),
    ("ring-ref", b"eight", NO_NUMBER),
    ("ring-ref", b"8\x00", NO_NUMBER),
    ("ring-ref", b"0", "0 is not in"),
    ("ring-ref", b"-1", "-1 is not in"),
    ("ring-ref", b"4294967296", "4294967296 is not in"),
    ("ring-ref", b"9" * 2000, NO_NUMBER),
    ("event-channel", None, "missing"),
    ("event-channel", b"", NO_NUMBER),
    ("event-channel", b"\xff\xfe", NO_NUMBER),
    ("event-channel", b"0", "0 is not in"),
    ("event-channel", b"4294967295", "4294967295 is not in"),
    ("event-channel", b"-9223372036854775808", "-9223372036854775808 is not in"),
    ("event-channel", b"18446744073709551617", "18446744073709551617 is not in"),
    ("feature-persistent", b"-1", "-1 is not in"),
]


def test_f03_ring_ref_or_event_channel_that_is_no_number_closes_the_device(scene: Scene) -> None:
    """Missing, empty, no number, negative, huge: named, closed, and open for another try."""
    with scene.hostile() as guest:
        for name, value, said in BAD_NUMBERS:
            shown = quote(value) if value and said is NO_NUMBER else ""
            lie(scene, guest, spoilt(guest, name, value), f"frontend node: {name}", shown, said)
        scene.starts_anew(guest)


def test_f03_bad_node_is_said_wherever_an_operator_looks(scene: Scene) -> None:
    """Error node, status, event stream, and one line of the log; gone once the guest is served."""
    with scene.hostile() as guest:
        publish(guest, spoilt(guest, "ring-ref", b"eight"))
        scene.world.wait_error(guest, "frontend node: ring-ref", "eight", errno=EPROTO)
        scene.refused(guest, "eight")
        log = scene.world.log_of(guest)
        assert len([line for line in log if " WARNING " in line and "held:" not in line]) == 1
        scene.starts_anew(guest)
        scene.lab.wait_device(guest.device, lambda now: (now.error, now.failures) == ("", 0))


def _not_granted(domain: Domain, nodes: Nodes) -> str:
    nodes["ring-ref"] = b"4000"
    return "4000"


def _beyond_the_table(domain: Domain, nodes: Nodes) -> str:
    nodes["ring-ref"] = b"%d" % GRANT_ENTRIES
    return str(GRANT_ENTRIES)


def _all_ones(domain: Domain, nodes: Nodes) -> str:
    nodes["ring-ref"] = b"4294967295"
    return "4294967295"


def _for_another_domain(domain: Domain, nodes: Nodes) -> str:
    nodes["ring-ref"] = b"%d" % domain.grant(domain.alloc_pages(1)[0], domid=77)
    return nodes["ring-ref"].decode()


def _readonly(domain: Domain, nodes: Nodes) -> str:
    nodes["ring-ref"] = b"%d" % domain.grant(domain.alloc_pages(1)[0], domid=0, readonly=True)
    return nodes["ring-ref"].decode()


def _no_such_port(domain: Domain, nodes: Nodes) -> str:
    nodes["event-channel"] = b"900"
    return "900"


def _port_beyond_all(domain: Domain, nodes: Nodes) -> str:
    nodes["event-channel"] = b"2147483647"
    return "2147483647"


def _port_for_another_domain(domain: Domain, nodes: Nodes) -> str:
    nodes["event-channel"] = b"%d" % domain.alloc_port(77)
    return nodes["event-channel"].decode()


def _port_closed(domain: Domain, nodes: Nodes) -> str:
    domain.close_port(int(nodes["event-channel"]))  # type: ignore[arg-type]
    return nodes["event-channel"].decode()


def test_f03_ring_or_port_not_the_backends_to_use_closes_the_device(scene: Scene) -> None:
    """Not granted, granted or offered to others, read-only, closed: refused, and nothing kept."""
    spoilers: list[Callable[[Domain, Nodes], str]] = [
        _not_granted,
        _beyond_the_table,
        _all_ones,
        _for_another_domain,
        _readonly,
        _no_such_port,
        _port_beyond_all,
        _port_for_another_domain,
        _port_closed,
    ]
    with scene.hostile() as guest:
        for spoil in spoilers:
            nodes = offer(guest.domain)
            granted = dict(nodes)
            said = spoil(guest.domain, nodes)
            lie(scene, guest, nodes, said)
            give_back(guest.domain, granted)
        scene.starts_anew(guest)


def test_f03_port_that_is_bound_already_closes_the_device(scene: Scene) -> None:
    """Somebody else of our domain has the guest's port: the worker does not get it."""
    with scene.hostile() as guest:
        nodes = offer(guest.domain)
        port = int(nodes["event-channel"])
        handles = EmbeddedHypervisor(Path(guest.domain.directory)).open_handles(grants=False)
        try:
            handles.event_channels.bind_interdomain(guest.domain.domid, port)
            lie(scene, guest, nodes, str(port))
        finally:
            handles.close()
        give_back(guest.domain, nodes)
        scene.starts_anew(guest)


def test_f03_port_closed_after_it_was_bound_is_the_guests_loss_only(scene: Scene) -> None:
    """The backend's end is left alone: closing still works and gives everything back."""
    with scene.hostile() as guest:
        nodes = offer(guest.domain)
        publish(guest, nodes)
        guest.wait_backend(XenbusState.CONNECTED)
        guest.domain.close_port(int(nodes["event-channel"]))  # type: ignore[arg-type]
        say(guest, XenbusState.CONNECTED)
        scene.lab.wait_connected(guest.device)
        say(guest, XenbusState.CLOSING)
        guest.wait_backend(XenbusState.CLOSING)
        say(guest, XenbusState.CLOSED)
        guest.wait_backend(XenbusState.CLOSED)
        give_back(guest.domain, nodes)
        scene.starts_anew(guest)


def _ring_of(guest: Guest, order: bytes, refs: list[int | None]) -> Nodes:
    nodes = offer(guest.domain)
    granted = int(nodes.pop("ring-ref"))
    named = {f"ring-ref{i}": b"%d" % (ref or granted) for i, ref in enumerate(refs) if ref != 0}
    return nodes | {"ring-page-order": order} | named


def test_f05_ring_of_an_impossible_size_or_with_gaps_closes_the_device(scene: Scene) -> None:
    """Orders that are none or too large, missing, repeated and ungranted pages."""
    granted, missing = None, 0
    bad: list[tuple[bytes, list[int | None], str]] = [
        (b"", [granted], NO_NUMBER),
        (b"one", [granted], "'one'"),
        (b"-1", [granted], "-1 is not in"),
        (b"5", [granted] * 32, "5 is not in 0..4"),
        (b"4294967295", [granted], "4294967295 is not in"),
        (b"1", [granted], "frontend node: ring-ref1: missing"),
        (b"2", [granted, 4000, 4001], "frontend node: ring-ref3: missing"),
        (b"2", [granted, 4000, missing, 4001], "frontend node: ring-ref2: missing"),
        (b"1", [granted, granted], "is given twice"),
        (b"4", [granted] * 16, "ring-ref1"),
        (b"1", [granted, 4000], "4000"),
    ]
    with scene.hostile() as guest:
        for order, refs, said in bad:
            nodes = _ring_of(guest, order, refs)
            lie(scene, guest, nodes, said)
            if "ring-ref0" in nodes:
                assert guest.domain.end_access(int(nodes["ring-ref0"]))
        scene.starts_anew(guest)


def test_f06_protocol_nobody_speaks_closes_the_device(scene: Scene) -> None:
    """Empty, unknown, endless: named and refused."""
    with scene.hostile() as guest:
        for value in (b"", b"sparc-abi", b"x86_64-abi\x00", b"7" * 2000):
            nodes = spoilt(guest, "protocol", value)
            lie(scene, guest, nodes, "frontend node: protocol", quote(value), NO_PROTOCOL)
            give_back(guest.domain, nodes)
        scene.starts_anew(guest)


def test_f06_protocol_may_be_another_one_in_each_connection(scene: Scene) -> None:
    """64 bit, 32 bit, 64 bit: each connection is served in the layout it said."""
    with scene.hostile() as guest:
        guest.disk.connect(DEADLINE)
        guest.works()
        for protocol in ("x86_32-abi", "x86_64-abi"):
            guest.disk.protocol = protocol
            guest.disk.reconnect(DEADLINE)
            guest.works()
        assert scene.lab.wait_connected(guest.device).error == ""


@pytest.mark.parametrize("queues", [b"0", b"2", b"many", b"4294967296"])
def test_f07_queues_nobody_offered_are_not_looked_at(scene: Scene, queues: bytes) -> None:
    """The disk says nothing of several queues: what a frontend says of them changes nothing."""
    with scene.hostile() as guest:
        nodes = offer(guest.domain)
        more = {"multi-queue-num-queues": queues, "queue-0/ring-ref": b"4000", "queue-7": b""}
        publish(guest, nodes | more)
        guest.wait_backend(XenbusState.CONNECTED)
        say(guest, XenbusState.CLOSED)
        guest.wait_backend(XenbusState.CLOSED)
        give_back(guest.domain, nodes)
        say(guest, XenbusState.INITIALISING)
        only_queues = {f"queue-0/{name}": value for name, value in nodes.items()}
        lie(scene, guest, only_queues | more, "frontend node: ring-ref: missing")
        scene.starts_anew(guest)


def test_f01_directory_filled_to_the_brim_closes_the_device(scene: Scene) -> None:
    """Endless names, too many nodes, too many bytes: what is handed to a worker has bounds."""
    brims = [
        ({"n" * 200: b"x"}, "is too long"),
        ({f"{number % 3}/{number}": b"x" for number in range(600)}, "more than 512 nodes"),
        ({f"n{number}": b"x" * 1900 for number in range(150)}, f"{SNAPSHOT_BYTES_MAX} bytes"),
    ]
    with scene.hostile() as guest:
        for more, said in brims:
            nodes = offer(guest.domain)
            lie(scene, guest, nodes | more, "frontend directory", said)
            give_back(guest.domain, nodes)
        publish(guest, offer(guest.domain))  # takes what filled it away
        guest.wait_backend(XenbusState.CONNECTED)
        scene.starts_anew(guest)
