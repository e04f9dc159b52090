# SPDX-License-Identifier: MIT
"""What a lying frontend writes: its nodes, made by hand, and when it likes.

`offer` is what an honest one would say; a test spoils it and gives it to `publish`.
"""

from __future__ import annotations

from embedded.domain import Domain
from embedded.xenstored.quotas import NODES_MAX
from shared.xenbus import XenbusState
from shared.xenstore.blocking import BlockingXenstore
from shared.xenstore.errors import QuotaError
from tests.process.lab_world import Guest

Nodes = dict[str, bytes]


def offer(domain: Domain, backend_domid: int = 0) -> Nodes:
    """The nodes of an honest frontend with a ring of one page, for this domain."""
    [frame] = domain.alloc_pages(1)
    domain.page(frame)[:] = bytes(4096)
    return {
        "ring-ref": b"%d" % domain.grant(frame, domid=backend_domid),
        "event-channel": b"%d" % domain.alloc_port(backend_domid),
        "protocol": b"x86_64-abi",
    }


def publish(guest: Guest, nodes: Nodes) -> None:
    """Wait for the backend, then write these nodes, no others, and say that they are there."""
    guest.wait_backend(XenbusState.INIT_WAIT)

    def write(tx: int) -> None:
        for name in set(guest.xs.directory(guest.frontend, tx)) - _TOOLSTACKS - nodes.keys():
            guest.xs.rm(f"{guest.frontend}/{name}", tx)
        for name, value in nodes.items():
            guest.xs.write(f"{guest.frontend}/{name}", value, tx)
        guest.xs.write(f"{guest.frontend}/state", XenbusState.INITIALISED.to_wire(), tx)

    guest.xs.transact(write)


_TOOLSTACKS = frozenset(
    {"backend", "backend-id", "state", "virtual-device", "device-type", "trusted"}
)


def say(guest: Guest, state: XenbusState | bytes | str) -> None:
    """Write the frontend's state, or anything in its place."""
    value = state.to_wire() if isinstance(state, XenbusState) else state
    guest.xs.write(f"{guest.frontend}/state", value)


def fill(store: BlockingXenstore) -> None:
    """A domain makes nodes of its own until it may make no more."""
    for number in range(NODES_MAX):
        try:
            store.write(f"data/fill/{number // 100}/{number}", b"x")
        except QuotaError:
            return
    raise AssertionError("there is no quota")


def give_back(domain: Domain, nodes: Nodes) -> None:
    """Take the ring page of an offer back; AssertionError while the backend has it mapped."""
    assert domain.end_access(int(nodes["ring-ref"])), "the backend still has the ring mapped"
