# SPDX-License-Identifier: MIT
"""A supervisor's surroundings without process, socket or time: xenstore is a dictionary, workers
are lists of orders that a test answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from config.model import Config, TypeConfig
from shared import messages as m
from shared.control import DeviceStatus
from shared.device_id import DeviceId
from shared.errors import BackendBug, HostError
from shared.worker_spec import WorkerSpec
from shared.xenstore.batch import Absent
from shared.xenstore.errors import ConnectionLostError, NoEntryError, QuotaError
from shared.xenstore.wire import WatchEvent
from supervisor.device.device import Device
from supervisor.device.registry import Registry
from supervisor.device.scanner import Scanner
from supervisor.device.surroundings import DeviceSurroundings
from supervisor.events import EventLog
from supervisor.operator.operations import status_of
from supervisor.workers.confinement.jails import Jails
from supervisor.workers.confinement.user_ids import UserIds
from supervisor.workers.peer import BusListener
from supervisor.workers.records import WorkerRecord
from supervisor.workers.spawner import ProcessOwner
from supervisor.xenstore.publisher import Publisher
from tests.fakes.clock_loop import settle

T = TypeVar("T")
OWN = "/local/domain/0"
TOY = DeviceId("toy", 3, 51712)
ERROR = f"{OWN}/error/backend/{TOY}/error"


class FakeStore:
    """Nodes, watches, transactions. `lost` fails everything, `refuse` fails writes below a path."""

    def __init__(self) -> None:
        self.nodes: dict[str, bytes] = {}
        self.watches: set[tuple[str, str]] = set()
        self.domains: set[int] = {0}
        self.on_event: Callable[[WatchEvent], None] = lambda event: None
        self.lost = False
        self.refuse: str | None = None
        self.writes: list[tuple[str, bytes, int]] = []
        self.refused_watches: set[str] = set()
        self._tx = 0

    async def _turn(self, what: str) -> None:
        await asyncio.sleep(0)
        if self.lost:
            raise ConnectionLostError(what, "-", "lost")

    async def read_or_none(self, path: str, tx: int = 0) -> bytes | None:
        await self._turn("read")
        if path in self.nodes:
            return self.nodes[path]
        return b"" if any(name.startswith(path + "/") for name in self.nodes) else None

    async def read_many(
        self, paths: Iterable[str], tx: int = 0, absent: Absent = NoEntryError
    ) -> list[bytes | None]:
        return await asyncio.gather(*(self.read_or_none(path, tx) for path in paths))

    async def directory(self, path: str, tx: int = 0) -> list[str]:
        await self._turn("directory")
        below = [name[len(path) + 1 :] for name in self.nodes if name.startswith(path + "/")]
        if not below and path not in self.nodes:
            raise NoEntryError("directory", path, "ENOENT")
        return list(dict.fromkeys(name.partition("/")[0] for name in below))

    async def write(self, path: str, value: bytes, tx: int = 0) -> None:
        await self._turn("write")
        if self.refuse is not None and path.startswith(self.refuse):
            raise QuotaError("write", path, "ENOSPC")
        self.writes.append((path, value, tx))
        self.put(path, value)

    async def write_many(self, nodes: Mapping[str, bytes], tx: int = 0) -> None:
        await asyncio.gather(*(self.write(path, value, tx) for path, value in nodes.items()))

    async def rm(self, path: str, tx: int = 0) -> None:
        await self._turn("rm")
        self.remove(path)

    async def transact(self, body: Callable[[int], Awaitable[T]]) -> T:
        await self._turn("transaction")
        self._tx += 1
        return await body(self._tx)

    async def watch(self, path: str, token: str, domain: int | Callable[[str], int]) -> None:
        await self._turn("watch")
        if path in self.refused_watches:
            raise HostError(f"watch: {path}: refused")
        self.watches.add((path, token))
        self.on_event(WatchEvent(path, token))

    async def unwatch(self, path: str, token: str) -> None:
        self.watches.discard((path, token))

    async def is_domain_introduced(self, domid: int) -> bool:
        await self._turn("is introduced")
        return domid in self.domains

    # what tests do

    def put(self, path: str, value: bytes) -> None:
        """Write as somebody else."""
        self.nodes[path] = value
        self._fire(path)

    def remove(self, path: str) -> None:
        """Remove as somebody else."""
        for name in [n for n in self.nodes if n == path or n.startswith(path + "/")]:
            del self.nodes[name]
        self._fire(path)

    def domain_dies(self, domid: int) -> None:
        self.domains.discard(domid)
        self.on_event(WatchEvent("@releaseDomain", "@releaseDomain"))

    def _fire(self, path: str) -> None:
        for watched, token in list(self.watches):
            if path == watched or path.startswith(watched + "/") or watched.startswith(path + "/"):
                self.on_event(WatchEvent(path if path.startswith(watched) else watched, token))


class FakeWorkers:
    """Spawner and bus at once. Each device's worker is `specs`, `orders` and what tests say."""

    def __init__(self) -> None:
        self.specs: dict[DeviceId, WorkerSpec] = {}
        self.owners: dict[DeviceId, ProcessOwner] = {}
        self.listeners: dict[DeviceId, BusListener] = {}
        self.orders: dict[DeviceId, list[m.Message]] = {}
        self.killed: list[DeviceId] = []
        self.aborted: list[DeviceId] = []
        self.starts: list[tuple[DeviceId, int]] = []
        self.full: set[DeviceId] = set()
        self.die_on_abort = True
        self.die_on_kill = True
        self._seq = 0
        self._pid = 4000

    # Processes

    def start(self, spec: WorkerSpec, owner: ProcessOwner) -> None:
        if spec.device in self.specs:
            raise BackendBug(f"{spec.device}: two workers")
        self.specs[spec.device] = spec
        self.owners[spec.device] = owner
        self.orders[spec.device] = []
        self.starts.append((spec.device, spec.generation))
        self._pid += 1
        asyncio.get_running_loop().call_soon(owner.worker_forked, self._pid)

    def adopt(self, device: DeviceId, *rest: Any) -> None:
        """Of the spawner (pidfd, owner), then of the bus (generation, pid, uid, listener)."""
        if device not in self.specs:
            self.owners[device] = rest[-1]
            self.specs[device] = spec_of(device)
            self.orders[device] = []
        else:
            generation, _, _, self.listeners[device] = rest
            self.specs[device] = spec_of(device, generation)

    def said_hello(self, device: DeviceId) -> None:
        pass

    def abort(self, device: DeviceId) -> None:
        if device in self.specs:
            self.aborted.append(device)
            if self.die_on_abort:
                asyncio.get_running_loop().call_soon(self.exits, device, -6)

    def kill(self, device: DeviceId) -> None:
        if device in self.specs:
            self.killed.append(device)
            if self.die_on_kill:
                asyncio.get_running_loop().call_soon(self.exits, device, -9)

    # Messages

    def expect(
        self, device: DeviceId, generation: int, pid: int, uid: int, listener: BusListener
    ) -> None:
        self.listeners[device] = listener

    def forget(self, device: DeviceId) -> None:
        self.listeners.pop(device, None)

    def next_seq(self, device: DeviceId) -> int:
        return len(self.orders.get(device, ()))

    def send(self, message: m.Message) -> bool:
        if message.device not in self.specs or message.device in self.full:
            return False
        self.orders[message.device].append(message)
        return True

    def drain(self) -> None:
        pass

    # what tests do

    def says(self, device: DeviceId, kind: Callable[..., m.FromWorker], **fields: Any) -> None:
        """A message of the device's worker arrives."""
        self._seq += 1
        spec = self.specs[device]
        message = kind(device=device, generation=spec.generation, seq=self._seq, **fields)
        self.listeners[device].worker_said(message)

    def exits(self, device: DeviceId, status: int | None) -> None:
        """The process is dead and reaped."""
        if device in self.specs:
            del self.specs[device]
            self.owners.pop(device).worker_exited(status)

    def kinds(self, device: DeviceId) -> list[str]:
        """Names of the orders so far."""
        return [type(order).__name__ for order in self.orders.get(device, [])]

    def last(self, device: DeviceId, kind: type[Any]) -> Any:
        """Newest order of a kind."""
        return [order for order in self.orders[device] if isinstance(order, kind)][-1]


def spec_of(device: DeviceId, generation: int = 1) -> WorkerSpec:
    """What an earlier supervisor started a worker with."""
    return WorkerSpec(
        device=device,
        generation=generation,
        backend_domid=0,
        handler="toy",
        options={},
        endpoint="/nowhere/workers.sock",
        hypervisor="embedded",
        embedded_dir="/nowhere",
        supervisor_pid=1,
    )


class FakeRecords:
    """Files of the devices, in a dictionary."""

    def __init__(self) -> None:
        self.files: dict[DeviceId, WorkerRecord] = {}

    def write(self, record: WorkerRecord) -> None:
        self.files[record.device] = record

    def remove(self, device: DeviceId) -> None:
        self.files.pop(device, None)


class World:
    """A scanner and its devices in fake surroundings."""

    def __init__(
        self,
        config: Config | None = None,
        store: FakeStore | None = None,
        user_ids: UserIds | None = None,
    ) -> None:
        self.store = store or FakeStore()
        self.workers = FakeWorkers()
        self.records = FakeRecords()
        self.registry: Registry[Device] = Registry()
        self.events = EventLog()
        self.surroundings = DeviceSurroundings(
            config=config or Config(types={"toy": TypeConfig(handler="toy")}),
            store=self.store,
            publisher=Publisher(self.store, OWN),
            processes=self.workers,
            messages=self.workers,
            records=self.records,
            events=self.events,
            clock=asyncio.get_running_loop().time,
            forget=lambda device: self.scanner.forget(device),
            own_path=OWN,
            own_domid=0,
            endpoint="/nowhere/workers.sock",
            hypervisor="embedded",
            embedded_dir="/nowhere",
            supervisor_pid=1,
            jails=Jails(Path("/nowhere"), user_ids, None),
        )
        self.scanner = Scanner(self.surroundings, self.registry)
        self.store.on_event = self.scanner.dispatch

    def plug(self, device: DeviceId = TOY, *, state: int = 1, frontend: int = 1) -> None:
        """What a toolstack writes for a device, and its domain."""
        self.store.domains.add(device.domid)
        back, front = self.back(device), self.front(device)
        nodes = {
            f"{front}/backend": back.encode(),
            f"{front}/state": b"%d" % frontend,
            f"{back}/frontend": front.encode(),
            f"{back}/frontend-id": b"%d" % device.domid,
            f"{back}/online": b"1",
            f"{back}/params": b"aio:/img",
            f"{back}/state": b"%d" % state,
        }
        self.store.nodes |= nodes
        for path in nodes:
            self.store._fire(path)

    def back(self, device: DeviceId = TOY) -> str:
        return f"{OWN}/backend/{device}"

    def front(self, device: DeviceId = TOY) -> str:
        return f"/local/domain/{device.domid}/device/{device.type}/{device.devid}"

    def frontend(self, state: int, device: DeviceId = TOY) -> None:
        """The frontend writes its state."""
        self.store.put(f"{self.front(device)}/state", b"%d" % state)

    def state(self, device: DeviceId = TOY) -> bytes | None:
        """The backend's state as it stands in xenstore."""
        return self.store.nodes.get(f"{self.back(device)}/state")

    def device(self, device: DeviceId = TOY) -> Device:
        found = self.registry.get(device)
        assert found is not None
        return found

    def status(self, device: DeviceId = TOY) -> DeviceStatus:
        """What `xenbackd status` says of it."""
        return status_of(self.device(device), self.surroundings.clock())

    async def start(self) -> None:
        await self.scanner.open()
        await settle()

    async def ready(self, device: DeviceId = TOY) -> None:
        """The worker says Hello and answers `Init`."""
        self.workers.says(device, m.Hello)
        await settle()
        self.workers.says(device, m.Initialised, nodes={"feature-barrier": b"1"})
        await settle()

    async def serving(self, device: DeviceId = TOY) -> None:
        """From plugged to both sides Connected."""
        self.plug(device)
        await settle()
        await self.ready(device)
        self.frontend(3, device)
        await settle()
        self.workers.says(device, m.Attached, nodes={"size": b"8"})
        await settle()
        self.frontend(4, device)
        await settle()


async def world_of(config: Config | None = None, store: FakeStore | None = None) -> World:
    """A world whose scanner has started."""
    world = World(config, store)
    await world.start()
    return world
