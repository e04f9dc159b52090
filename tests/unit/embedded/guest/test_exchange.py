# SPDX-License-Identifier: MIT
"""A device's request and its answer, over a pair of sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from embedded.guest import control
from embedded.guest.exchange import Exchange
from shared.errors import HostError
from tests.fakes.echo.guest import Heard


@pytest.fixture
def ends() -> Iterator[tuple[Exchange, socket.socket]]:
    """The guest's exchange and the client's socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("rb") as stream:
        theirs.settimeout(10)
        yield Exchange(ours, stream), theirs


def test_exchange_reply_travels_in_an_envelope(ends: tuple[Exchange, socket.socket]) -> None:
    """The type's message is the body of a `DeviceReply`, as it was encoded."""
    exchange, client = ends
    exchange.reply(Heard("hello"))
    reply = control.decode_reply(client.recv(1000))
    assert isinstance(reply, control.DeviceReply)
    assert bytes(reply.body) == b'{"text":"hello"}'


def test_exchange_expected_data_is_counted_down(ends: tuple[Exchange, socket.socket]) -> None:
    """No more is taken than was asked for: what follows is the next request."""
    exchange, client = ends
    exchange.expect(5, Heard("go on"))
    client.sendall(b"12345next\n")
    assert (exchange.receive(3), exchange.outstanding) == (b"123", 2)
    assert (exchange.receive(100), exchange.outstanding) == (b"45", 0)
    assert exchange.receive(100) == b""


def test_exchange_client_that_ends_early_is_a_host_error(
    ends: tuple[Exchange, socket.socket],
) -> None:
    """Half of the data is none of it."""
    exchange, client = ends
    exchange.expect(5, Heard("go on"))
    client.sendall(b"12")
    client.shutdown(socket.SHUT_WR)
    with pytest.raises(HostError, match="it ended early"):
        exchange.receive(5)
    assert exchange.outstanding == 5
