# SPDX-License-Identifier: MIT
"""xenstored goes away in the middle of a supervisor's start."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Iterator

import pytest

from embedded.xenstored.requests import Client
from shared.xenstore.wire import Op, Packet
from tests.fakes.waiting import DEADLINE, wait_until
from tests.process.daemon_setup import Setup, paths
from tests.unit.shared.xenstore.xenstore_fake import FakeXenstored, fake_xenstored


@pytest.fixture
def setup() -> Iterator[Setup]:
    with contextlib.closing(Setup()) as made:
        yield made


class HangsUp:
    """As an answer of `FakeXenstored`: a request about devices ends the connection, some times."""

    def __init__(self, server: FakeXenstored, op: Op, times: float) -> None:
        self.server = server
        self._op = op
        self.left = times

    def __call__(self, packet: Packet) -> bytes | None:
        of_devices = packet.op == Op.IS_DOMAIN_INTRODUCED or b"/backend/" in packet.payload
        if packet.op != self._op or not of_devices or not self.left:
            return None
        self.left -= 1
        for connection in list(self.server.connections):
            connection.transport.abort()
        return b""


@contextlib.asynccontextmanager
async def xenstored_that_hangs_up(setup: Setup, op: Op, times: float) -> AsyncIterator[HangsUp]:
    """A device, and a xenstored in this event loop where `setup` looks for it."""
    back, front = paths(3, 1)
    async with fake_xenstored() as server:
        link = setup.directory / "embedded" / "xenstored" / "socket"
        link.parent.mkdir(parents=True)
        link.symlink_to(server.path)
        server.requests.handle(Client(0), Op.INTRODUCE, 0, b"3\x000\x000\0")
        for path, value in {
            f"{front}/state": b"3",
            f"{back}/frontend": front.encode(),
            f"{back}/online": b"1",
            f"{back}/state": b"1",
        }.items():
            server.write(path, value)
        server.answer = hangs_up = HangsUp(server, op, times)
        yield hangs_up


@pytest.mark.parametrize("op", [Op.WATCH, Op.DIRECTORY, Op.IS_DOMAIN_INTRODUCED, Op.READ])
def test_daemon_xenstored_lost_while_it_starts_goes_on_when_it_is_back(
    setup: Setup, op: Op
) -> None:
    """Whatever request of the start it is: the start goes on from there, in the same process."""

    async def scenario() -> None:
        async with xenstored_that_hangs_up(setup, op, 2) as hangs_up:
            process = setup.supervisor()
            await asyncio.to_thread(setup.wait_phase, "vbd/3/1", "serving")
            assert not hangs_up.left
            assert setup.status().xenstore == "connected"
            process.terminate()
            assert await asyncio.to_thread(process.wait, DEADLINE) == 0

    asyncio.run(scenario())


def test_daemon_told_to_end_while_its_start_waits_for_xenstored_ends(setup: Setup) -> None:
    """SIGTERM is obeyed although the start never comes to its end."""

    async def scenario() -> None:
        async with xenstored_that_hangs_up(setup, Op.DIRECTORY, math.inf) as hangs_up:
            process = setup.supervisor()

            def waits() -> bool:
                return "going on when xenstored is back" in setup.log.read_text()

            await asyncio.to_thread(wait_until, waits, "the loss")
            await hangs_up.server.stop()  # it does not come back
            process.terminate()
            assert await asyncio.to_thread(process.wait, DEADLINE) == 0

    asyncio.run(scenario())
