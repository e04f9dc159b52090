# SPDX-License-Identifier: MIT
"""The supervisor's socket for workers: beats may wait, answers may not."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from shared.device_id import DeviceId
from shared.errors import BackendBug
from shared.messages import Beat, FromWorker, Hello, Init, Initialised, encode
from supervisor.workers import bus, peer
from supervisor.workers.bus import Bus

DEVICE = DeviceId("toy", 1, 51712)
DEADLINE = 10.0


class Said(asyncio.Queue[FromWorker]):
    """A device that keeps what its worker says."""

    def worker_said(self, message: FromWorker) -> None:
        """Keep it."""
        self.put_nowait(message)

    def worker_came_back(self) -> None:
        """None here is an earlier supervisor's."""

    def worker_broke_protocol(self, error: BackendBug) -> None:
        """Nothing here does."""
        raise error


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    """Ended with all its sockets."""
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield made
    made.destroy(0)


def test_bus_rest_after_beats_is_over_when_an_answer_is_due(
    context: zmq.Context[zmq.Socket[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beats alone let the socket rest; the answer to an order is read all the same."""
    monkeypatch.setattr(bus, "REST", 3600.0)

    async def scenario(path: Path) -> None:
        said = Said()
        ours = Bus(context, path)
        ours.open()
        worker = context.socket(zmq.DEALER)
        worker.connect(f"ipc://{path}")
        ours.expect(DEVICE, 1, os.getpid(), 0, said)

        async def hears(message: FromWorker) -> None:
            worker.send(encode(message))
            async with asyncio.timeout(DEADLINE):
                assert await said.get() == message

        try:
            await hears(Hello(device=DEVICE, generation=1, seq=0))
            await hears(Beat(device=DEVICE, generation=1, seq=1, counters={}))
            assert ours.send(Init(device=DEVICE, generation=1, seq=0, backend={}))
            # What looks because of the sending has looked: the answer comes later.
            assert await asyncio.to_thread(worker.poll, int(DEADLINE * 1000))
            await hears(Initialised(device=DEVICE, generation=1, seq=2, nodes={}))
        finally:
            worker.close(linger=0)
            ours.close()

    with tempfile.TemporaryDirectory(prefix="xbd") as directory:
        asyncio.run(scenario(Path(directory) / "workers.sock"))


def test_bus_answers_that_were_asked_for_do_not_use_up_a_workers_budget(
    context: zmq.Context[zmq.Socket[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest that connects and closes without end has its worker asked as often: no flood."""
    monkeypatch.setattr(peer, "MESSAGES_BURST", 4)
    monkeypatch.setattr(peer, "MESSAGES_PERIOD", 3600.0)

    async def scenario(path: Path) -> None:
        said = Said()
        ours = Bus(context, path)
        ours.open()
        worker = context.socket(zmq.DEALER)
        worker.connect(f"ipc://{path}")
        ours.expect(DEVICE, 1, os.getpid(), 0, said)

        async def hears(message: FromWorker) -> None:
            worker.send(encode(message))
            async with asyncio.timeout(DEADLINE):
                assert await said.get() == message

        try:
            await hears(Hello(device=DEVICE, generation=1, seq=0))
            for number in range(1, 20):
                seq = ours.next_seq(DEVICE)
                assert ours.send(Init(device=DEVICE, generation=1, seq=seq, backend={}))
                await hears(Initialised(device=DEVICE, generation=1, seq=number, nodes={}))
        finally:
            worker.close(linger=0)
            ours.close()

    with tempfile.TemporaryDirectory(prefix="xbd") as directory:
        asyncio.run(scenario(Path(directory) / "workers.sock"))
