# SPDX-License-Identifier: MIT
"""A real worker process between an embedded hypervisor, a guest and a supervisor that is a test."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import zmq

from embedded.domain import Domain
from embedded.guest.channel import GuestChannel
from embedded.guest.pages import SharedPages
from embedded.hypervisor import HypervisorServer
from embedded.protocol import GRANT_ENTRIES
from shared.device_id import DeviceId
from shared.messages import (
    Attached,
    Beat,
    FromWorker,
    Hello,
    Init,
    Initialise,
    Initialised,
    Message,
    decode_from_worker,
    encode,
)
from shared.worker_spec import WorkerSpec
from tests.root import ROOT
from worker.devices.block.guest.ring import FrontRing

DEVID = 51712
DEADLINE = 20.0
"""Seconds after which something that should have come counts as missing."""

T = TypeVar("T", bound=Message)


class Hypervisor:
    """An embedded hypervisor on a thread of the test."""

    def __init__(self, directory: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.server: HypervisorServer = self._call(self._start, directory)

    @staticmethod
    async def _start(directory: Path) -> HypervisorServer:
        server = HypervisorServer(directory)
        server.start()
        return server

    async def _stop(self) -> None:
        self.server.close()

    def _call(self, function: Any, *arguments: Any) -> Any:
        coroutine = function(*arguments)
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(DEADLINE)

    def close(self) -> None:
        self._call(self._stop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Guest:
    """A domain with one disk frontend, whose xenstore nodes are a dictionary."""

    def __init__(self, directory: Path, order: int = 0, *, persistent: bool = True) -> None:
        self.domain = Domain.create(directory, "guest", 1024)
        self.pages = SharedPages(self.domain)
        self.channel = GuestChannel(self.domain, 0)
        frames, refs = self.pages.ring(order, 0)
        self.ring = FrontRing(
            ring=self.pages.address(frames[0]),
            order=order,
            bits=64,
            grant_table=self.domain.grant_table_address,
            grant_count=GRANT_ENTRIES,
            ops=self.channel.native_ops,
            port=self.channel.port,
            persistent=persistent,
        )
        frames, data = self.pages.data(128, 0, least=11)
        self.ring.add_pages([self.pages.address(frame) for frame in frames], data, frames)
        self.nodes = {
            "event-channel": b"%d" % self.channel.port,
            "protocol": b"x86_64-abi",
            "feature-persistent": b"%d" % persistent,
        }
        if order:
            self.nodes["ring-page-order"] = b"%d" % order
            self.nodes |= {f"ring-ref{i}": b"%d" % ref for i, ref in enumerate(refs)}
        else:
            self.nodes["ring-ref"] = b"%d" % refs[0]

    def close(self) -> None:
        self.ring.close()
        self.channel.close()
        self.domain.close()


class Worker:
    """A worker process and the supervisor's end of its bus."""

    def __init__(self, spec: WorkerSpec, socket: zmq.Socket[bytes]) -> None:
        self.spec = spec
        self._socket = socket
        self._seq = 0
        self._route: bytes | None = None
        self.beats: list[Beat] = []
        code = "import sys; from worker.main import run; run(bytes.fromhex(sys.argv[1]))"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, spec.encode().hex()],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )

    def send(self, kind: type[Message], **fields: Any) -> None:
        """Send an order."""
        assert self._route is not None
        message = kind(
            device=self.spec.device, generation=self.spec.generation, seq=self._seq, **fields
        )
        self._seq += 1
        self._socket.send_multipart([self._route, encode(message)])

    def receive(self) -> FromWorker:
        """The next message but for beats, which are kept."""
        end = time.monotonic() + DEADLINE
        while self._socket.poll(max(0, int((end - time.monotonic()) * 1000))):
            self._route, data = self._socket.recv_multipart()
            message = decode_from_worker(data)
            if not isinstance(message, Beat):
                return message
            self.beats.append(message)
        raise AssertionError(f"no message of the worker: {self.finish(kill=True)[1]}")

    def wait_for_beat(self) -> Beat:
        """The next beat."""
        self._route, data = self._socket.recv_multipart()
        message = decode_from_worker(data)
        assert isinstance(message, Beat), message
        return message

    def expect(self, kind: type[T]) -> T:
        """The next message, which is of this kind."""
        message = self.receive()
        assert isinstance(message, kind), message
        return message

    def ask(self, answer: type[T], order: type[Message], **fields: Any) -> T:
        """Send an order and take its answer."""
        self.send(order, **fields)
        return self.expect(answer)

    def serve(self, backend: dict[str, bytes], guest: Guest, *, resume: bool = False) -> None:
        """Bring the worker from its start to serving."""
        self.expect(Hello)
        self.ask(Initialised, Init, backend=backend)
        self.ask(Attached, Initialise, backend=backend, frontend=guest.nodes, resume=resume)

    def finish(self, *, kill: bool = False) -> tuple[int, str]:
        """Wait for the end; exit status and what was logged."""
        if kill:
            self.process.send_signal(signal.SIGKILL)
        _, log = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, log


class Bench:
    """All of it in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.hypervisor = Hypervisor(directory)
        self.image = directory / "disk.img"
        self.image.write_bytes(os.urandom(1 << 20))
        self.backend = {"params": f"aio:{self.image}".encode(), "mode": b"w"}
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.RCVTIMEO, int(DEADLINE * 1000))
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(f"ipc://{directory}/workers.sock")
        self._generation = 0
        self.guests: list[Guest] = []
        self.workers: list[Worker] = []

    def guest(self, **options: Any) -> Guest:
        """A new guest."""
        self.guests.append(Guest(self.directory, **options))
        return self.guests[-1]

    def worker(self, domid: int = 1, **changes: Any) -> Worker:
        """Start the next worker of the domain's disk."""
        self._generation += 1
        spec: dict[str, Any] = {
            "device": DeviceId("vbd", domid, DEVID),
            "generation": self._generation,
            "backend_domid": 0,
            "handler": "block",
            "options": {},
            "endpoint": str(self.directory / "workers.sock"),
            "hypervisor": "embedded",
            "embedded_dir": str(self.directory),
            "supervisor_pid": os.getpid(),
            "beat": 0.1,
        }
        self.workers.append(Worker(WorkerSpec(**{**spec, **changes}), self._socket))
        return self.workers[-1]

    def close(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.kill()
            worker.process.communicate()
        for guest in self.guests:
            guest.close()
        self._context.destroy()
        self.hypervisor.close()


@contextlib.contextmanager
def worker_bench() -> Iterator[Bench]:
    """A bench that leaves nothing behind."""
    directory = Path(tempfile.mkdtemp(prefix="xbd"))
    try:
        bench = Bench(directory)
        try:
            yield bench
        finally:
            bench.close()
    finally:
        shutil.rmtree(directory)
