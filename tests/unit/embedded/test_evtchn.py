# SPDX-License-Identifier: MIT
"""The event-channel table: Xen's rules of who may bind what, and what closing does."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedded.evtchn import ChannelTable, TableError
from embedded.protocol import GUEST_PORTS_MAX

GUEST, OTHER, DOM0 = 3, 4, 0
BELLS = (10, 11)


def code_of(call: Callable[[], object]) -> int:
    """The errno a call fails with."""
    with pytest.raises(TableError) as caught:
        call()
    return caught.value.code


@pytest.fixture
def table() -> ChannelTable:
    """An empty table."""
    return ChannelTable()


def test_evtchn_alloc_gives_the_lowest_port_and_never_zero(table: ChannelTable) -> None:
    """Ports are 1, 2, 3; a closed one is given again before a new one."""
    ports = [table.alloc_unbound(GUEST, DOM0, "g", BELLS).port for _ in range(3)]
    table.close(GUEST, 2, "g")

    assert ports == [1, 2, 3]
    assert table.alloc_unbound(GUEST, DOM0, "g", BELLS).port == 2


def test_evtchn_bind_gives_each_end_its_own_bell(table: ChannelTable) -> None:
    """What is one end's own bell is the other end's peer bell."""
    ours = table.alloc_unbound(GUEST, DOM0, "g", BELLS)
    theirs = table.bind(DOM0, GUEST, ours.port, "b")

    assert (ours.own_bell, ours.peer_bell) == BELLS
    assert (theirs.own_bell, theirs.peer_bell) == BELLS[::-1]
    assert ours.bound
    assert theirs.bound


def test_evtchn_bind_to_what_cannot_be_bound_is_einval(table: ChannelTable) -> None:
    """Absent port, another domain's port, a port bound already: EINVAL each, as on Xen."""
    port = table.alloc_unbound(GUEST, DOM0, "g", BELLS).port
    foreign = table.alloc_unbound(GUEST, OTHER, "g", BELLS).port
    table.bind(DOM0, GUEST, port, "b")

    for remote in (port, foreign, 77, 0, 1 << 31):
        assert code_of(lambda remote=remote: table.bind(DOM0, GUEST, remote, "b2")) == errno.EINVAL  # type: ignore[misc]
    assert code_of(lambda: table.bind(DOM0, 99, 1, "b")) == errno.EINVAL


def test_evtchn_binder_closed_lets_the_same_domain_bind_anew(table: ChannelTable) -> None:
    """Closing one end makes the other unbound for the same domain and for no other."""
    port = table.alloc_unbound(GUEST, DOM0, "g", BELLS).port
    table.bind(DOM0, GUEST, port, "first")

    assert table.close_owner("first") == []
    assert table.counts(GUEST) == (1, 0)
    assert code_of(lambda: table.bind(OTHER, GUEST, port, "x")) == errno.EINVAL
    assert table.bind(DOM0, GUEST, port, "second").own_bell == BELLS[1]


def test_evtchn_allocator_closed_lets_its_domain_bind_the_other_end(table: ChannelTable) -> None:
    """The rule holds in both directions: the binder's port is kept for the allocator's domain."""
    port = table.alloc_unbound(GUEST, DOM0, "g", BELLS).port
    ours = table.bind(DOM0, GUEST, port, "b")
    table.close(GUEST, port, "g")

    again = table.bind(GUEST, DOM0, ours.port, "g2")

    assert (again.own_bell, again.peer_bell) == BELLS


def test_evtchn_last_end_closed_gives_the_dead_channel_back(table: ChannelTable) -> None:
    """The bells of a channel are released once, with its last end."""
    port = table.alloc_unbound(GUEST, DOM0, "g", BELLS).port
    ours = table.bind(DOM0, GUEST, port, "b")

    assert table.close(GUEST, port, "g") is None
    dead = table.close(DOM0, ours.port, "b")

    assert dead is not None
    assert dead.bells == BELLS


def test_evtchn_close_of_another_handles_port_is_enotconn(table: ChannelTable) -> None:
    """A handle cannot close ports that are not its own, nor ports that are not there."""
    port = table.alloc_unbound(GUEST, DOM0, "g", BELLS).port

    assert code_of(lambda: table.close(GUEST, port, "other")) == errno.ENOTCONN
    assert code_of(lambda: table.close(GUEST, 5, "g")) == errno.ENOTCONN
    assert code_of(lambda: table.close(9, 1, "g")) == errno.ENOTCONN


def test_evtchn_domain_died_closes_its_ports_only(table: ChannelTable) -> None:
    """The peer's port is still there, unbound; unbound channels of the dead are released."""
    port = table.alloc_unbound(GUEST, DOM0, "g", BELLS).port
    table.alloc_unbound(GUEST, DOM0, "g", (20, 21))
    table.bind(DOM0, GUEST, port, "b")

    dead = table.close_domain(GUEST)

    assert [channel.bells for channel in dead] == [(20, 21)]
    assert table.counts(GUEST) == (0, 0)
    assert table.counts(DOM0) == (1, 0)


def test_evtchn_guest_out_of_ports_gets_enospc(table: ChannelTable) -> None:
    """A guest has 4095 ports; one that wants more harms nobody else."""
    for _ in range(GUEST_PORTS_MAX - 1):
        table.alloc_unbound(GUEST, DOM0, "g", BELLS)

    assert code_of(lambda: table.alloc_unbound(GUEST, DOM0, "g", BELLS)) == errno.ENOSPC
    assert table.alloc_unbound(OTHER, DOM0, "o", BELLS).port == 1


STEPS = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 4), st.integers(0, 2)))


@given(steps=STEPS)
@settings(max_examples=100, deadline=None)
def test_evtchn_any_history_releases_each_channel_exactly_once(
    steps: list[tuple[str, int, int]],
) -> None:
    """After any calls and the end of all domains every channel came back, none of them twice."""
    table = ChannelTable()
    made, released = 0, []
    for action, port, domid in steps:
        try:
            if action == "a":
                table.alloc_unbound(domid, 2 - domid, f"h{domid}", (made, made))
                made += 1
            elif action == "b":
                table.bind(domid, 2 - domid, port, f"h{domid}")
            elif action == "c":
                dead = table.close(domid, port, f"h{domid}")
                released += [dead] if dead else []
            else:
                released += table.close_owner(f"h{domid}")
        except TableError:
            continue
    for domid in range(3):
        released += table.close_domain(domid)

    assert sorted(channel.bells[0] for channel in released) == list(range(made))
