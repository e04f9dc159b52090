# SPDX-License-Identifier: MIT
"""Fork server, spawner and bus with real processes."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from shared import messages as m
from shared.device_id import DeviceId
from shared.errors import BackendBug, HostError
from shared.worker_spec import WorkerSpec
from supervisor.workers.bus import Bus
from supervisor.workers.records import Records
from supervisor.workers.spawner import Spawner
from tests.fakes.descriptors import descriptors
from tests.fakes.waiting import wait_until
from tests.root import ROOT

ENTRY = "tests.fakes.trivial_worker:run"
DEVICE = DeviceId("toy", 3, 51712)
DEADLINE = 20.0


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="xbd"))
    yield path
    shutil.rmtree(path)


class Owner:
    """Hears of one worker and of its messages."""

    def __init__(self, bus: Bus | None = None, device: DeviceId = DEVICE) -> None:
        self.bus = bus
        self.device = device
        self.generation = 1
        self.heard: asyncio.Queue[Any] = asyncio.Queue()
        self.pid = 0

    async def next(self) -> Any:
        async with asyncio.timeout(DEADLINE):
            return await self.heard.get()

    def worker_forked(self, pid: int) -> None:
        self.pid = pid
        self.heard.put_nowait("forked")
        if self.bus is not None:  # which may pass on at once what the worker has said already
            self.bus.expect(self.device, self.generation, pid, 0, self)

    def worker_exited(self, status: int | None) -> None:
        if self.bus is not None:
            self.bus.forget(self.device)
        self.heard.put_nowait(("exited", status))

    def worker_not_started(self, error: HostError) -> None:
        self.heard.put_nowait(error)

    def worker_said(self, message: m.FromWorker) -> None:
        self.heard.put_nowait(message)

    def worker_came_back(self) -> None:
        self.heard.put_nowait("came back")

    def worker_broke_protocol(self, error: BackendBug) -> None:
        self.heard.put_nowait(error)


class Host:
    """A spawner and a bus."""

    def __init__(
        self, directory: Path, parallel: int = 8, device_types: Sequence[str] = ()
    ) -> None:
        self.context: zmq.Context[Any] = zmq.Context()
        self.bus = Bus(self.context, directory / "workers.sock")
        self.records = Records(directory)
        self.records.load()
        self.spawner = Spawner(
            parallel=parallel,
            entry_point=ENTRY,
            preload=[*(["worker.preload"] if device_types else []), "tests.fakes.trivial_worker"],
            device_types=device_types,
            locks=self.records,
            directory=directory / "fork",
        )
        self.bus.starts_pending = self.spawner.pids_pending

    def start(self, owner: Owner, mode: str = "normal") -> None:
        spec = WorkerSpec(
            device=owner.device,
            generation=owner.generation,
            backend_domid=0,
            handler="toy",
            options={"mode": mode},
            endpoint=str(self.bus.path),
            hypervisor="embedded",
            embedded_dir="",
            supervisor_pid=os.getpid(),
            beat=0.1,
        )
        self.spawner.start(spec, owner)


@asynccontextmanager
async def host_in(
    directory: Path, parallel: int = 8, device_types: Sequence[str] = ()
) -> AsyncIterator[Host]:
    host = Host(directory, parallel, device_types)
    host.bus.open()
    host.spawner.open()
    try:
        yield host
    finally:
        await host.spawner.close()
        host.bus.close()
        host.context.destroy(linger=0)


@pytest.mark.parametrize(("mode", "status"), [("exit:0", 0), ("exit:78", 78)])
def test_spawner_exit_code_arrives(directory: Path, mode: str, status: int) -> None:
    """The exit code of a worker that is no child of ours is known, once it is reaped."""

    async def test() -> None:
        async with host_in(directory) as host:
            owner = Owner()
            host.start(owner, mode)
            assert await owner.next() == "forked"
            assert await owner.next() == ("exited", status)
            assert len(host.spawner) == 0
            with pytest.raises(ProcessLookupError):
                os.kill(owner.pid, 0)

    asyncio.run(test())


def test_spawner_worker_has_nothing_of_the_supervisor(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker has loaded no module of the supervisor and inherits no foreign variables."""
    monkeypatch.setenv("XBD_SECRET", "1")

    async def test() -> None:
        async with host_in(directory) as host:
            owner = Owner(host.bus)
            host.start(owner, "modules")
            assert await owner.next() == "forked"
            assert isinstance(await owner.next(), m.Hello)
            beat = await owner.next()
            assert beat.counters == {"supervisor": 0, "secrets": 0}

    asyncio.run(test())


def test_s06_worker_starts_says_hello_and_obeys(directory: Path) -> None:
    """Hello is accepted by kernel credentials, orders arrive, Stop ends the worker with 0."""

    async def test() -> None:
        async with host_in(directory) as host:
            owner = Owner(host.bus)
            host.start(owner)
            assert await owner.next() == "forked"
            hello = await owner.next()
            assert isinstance(hello, m.Hello)
            host.spawner.said_hello(DEVICE)
            stop = m.Stop(device=DEVICE, generation=1, seq=host.bus.next_seq(DEVICE))
            assert host.bus.send(stop)
            while (heard := await owner.next()) != ("exited", 0):
                assert isinstance(heard, m.Beat)

    asyncio.run(test())


def test_spawner_killed_worker_is_reported_dead_and_only_then_replaced(directory: Path) -> None:
    """SIGKILL from outside: the status says so; a second worker before that is refused."""

    async def test() -> None:
        async with host_in(directory) as host:
            owner = Owner(host.bus)
            host.start(owner)
            await owner.next()
            await owner.next()
            with pytest.raises(BackendBug, match="not known dead"):
                host.start(owner)
            os.kill(owner.pid, signal.SIGKILL)
            while (heard := await owner.next()) != ("exited", -9):
                assert isinstance(heard, m.Beat)
            owner.generation = 2
            host.start(owner)
            assert await owner.next() == "forked"

    asyncio.run(test())


def test_spawner_bounds_parallel_starts_and_kills_what_waits(directory: Path) -> None:
    """With one slot the second worker waits for the first one's Hello; waiting, it can be ended."""

    async def test() -> None:
        async with host_in(directory, parallel=1) as host:
            owners = [Owner(host.bus, DeviceId("toy", 3, n)) for n in range(3)]
            for owner in owners:
                host.start(owner)
            await owners[0].next()
            await owners[0].next()
            assert owners[1].heard.empty()
            host.spawner.kill(owners[2].device)
            assert await owners[2].next() == ("exited", 0)
            host.spawner.said_hello(owners[0].device)
            assert await owners[1].next() == "forked"

    asyncio.run(test())


async def start_again(host: Host, owner: Owner) -> None:
    """Until it is forked: a start in the very moment of the fork server's death fails."""
    host.start(owner)
    while await owner.next() != "forked":
        host.start(owner)


def test_spawner_fork_server_killed_workers_live_on_and_new_ones_start(directory: Path) -> None:
    """The fork server's death costs no worker; their later death is noticed all the same."""

    async def test() -> None:
        async with host_in(directory) as host:
            first = Owner(host.bus)
            host.start(first)
            await first.next()
            await first.next()
            server = host.spawner._server.pid
            assert server is not None
            os.kill(server, signal.SIGKILL)
            second = Owner(host.bus, DeviceId("toy", 3, 2))
            await start_again(host, second)
            assert isinstance(await second.next(), m.Hello)
            assert isinstance(await first.next(), m.Beat)
            os.kill(first.pid, signal.SIGKILL)
            while (heard := await first.next()) != ("exited", None):
                assert isinstance(heard, m.Beat)
            assert host.spawner._server.pid != server

    asyncio.run(test())


def test_spawner_fork_server_that_does_not_answer_is_replaced(directory: Path) -> None:
    """Stopped, it would hold up every start without a word; its workers are not touched."""

    async def test() -> None:
        async with host_in(directory) as host:
            first, second = Owner(host.bus), Owner(host.bus, DeviceId("toy", 3, 2))
            host.start(first)
            await first.next()
            await first.next()
            server, patience = host.spawner._server.pid, host.spawner.fork_patience
            assert server is not None
            os.kill(server, signal.SIGSTOP)
            host.spawner.fork_patience = 0.1
            host.start(second)
            assert "the fork server is gone" in str(await second.next())
            host.spawner.fork_patience = patience
            await start_again(host, second)
            assert isinstance(await second.next(), m.Hello)
            assert isinstance(await first.next(), m.Beat)
            assert host.spawner._server.pid != server

    asyncio.run(test())


@pytest.mark.parametrize("mode", ["garbage", "gap", "huge", "present", "flood"])
def test_bus_worker_that_breaks_the_schema_is_denounced(directory: Path, mode: str) -> None:
    """Garbage, a lost message, one so large that ZeroMQ cut the connection, or far too many."""

    async def test() -> None:
        async with host_in(directory) as host:
            owner = Owner(host.bus)
            host.start(owner, mode)
            assert await owner.next() == "forked"
            heard = await owner.next()
            while isinstance(heard, m.Hello | m.Beat):
                heard = await owner.next()
            assert isinstance(heard, BackendBug)
            assert str(DEVICE) in str(heard)

    asyncio.run(test())


STRANGER = """
import sys, zmq
from shared import messages as m
from shared.device_id import DeviceId
context = zmq.Context()
s = context.socket(zmq.DEALER)
s.connect("ipc://" + sys.argv[1])
d = DeviceId("toy", 3, 51712)
for data in (m.encode(m.Hello(device=d, generation=1, seq=0)), b"garbage",
             m.encode(m.Publish(device=d, generation=1, seq=1, nodes={"sectors": b"0"}))):
    s.send(data)
s.close(linger=-1)
context.term()  # only then is all of it sent; an interpreter that ends does not wait for that
"""


def test_bus_stranger_that_knows_the_protocol_is_ignored(directory: Path) -> None:
    """Another process's Hello and orders in the name of our device reach nobody."""

    async def test() -> None:
        async with host_in(directory) as host:
            owner = Owner(host.bus)
            host.start(owner)
            await owner.next()
            await owner.next()
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                STRANGER,
                str(host.bus.path),
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            async with asyncio.timeout(DEADLINE):
                assert await process.wait() == 0
                while host.bus.dropped < 3:
                    assert isinstance(await owner.heard.get(), m.Beat)
            assert isinstance(await owner.next(), m.Beat), "our own worker is not disturbed"

    asyncio.run(test())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize("own", [True, False])
def test_bus_worker_speaks_under_its_own_user_id_or_is_nobody(directory: Path, own: bool) -> None:
    """The right process with the wrong user: it ended, and its number is somebody else's now."""
    uid = 1_879_048_192 + 30_001
    # Its imports are done as root: who knows where Python is installed.
    change = f"import os\nsys.stdin.readline()\nos.setuid({uid})\ncontext ="
    program = STRANGER.replace("context =", change, 1)

    directory.chmod(0o711)

    async def test() -> None:
        async with host_in(directory) as host:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                program,
                str(host.bus.path),
                stdin=asyncio.subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            owner = Owner()
            host.bus.expect(DEVICE, 1, process.pid, uid if own else uid + 1, owner)
            assert process.stdin is not None
            process.stdin.write(b"\n")
            async with asyncio.timeout(DEADLINE):
                assert await process.wait() == 0
                if own:
                    assert isinstance(await owner.next(), m.Hello)
                    assert isinstance(await owner.next(), BackendBug), "of garbage"
                    return
            await asyncio.to_thread(wait_until, lambda: host.bus.dropped == 3, "what it said")
            assert owner.heard.empty()

    asyncio.run(test())


def test_spawner_leaves_no_descriptor_behind(directory: Path) -> None:
    """Twenty workers come and go: as many descriptors as before."""

    async def test() -> None:
        async with host_in(directory) as host:
            counts = []
            for generation in range(20):
                owner = Owner()
                owner.generation = generation
                host.start(owner, "exit:0")
                await owner.next()
                await owner.next()
                counts.append(descriptors())
            assert counts[1] == counts[-1]

    asyncio.run(test())
