# SPDX-License-Identifier: MIT
"""The supervisor process: what it opens, in which order, and how it ends.

One asyncio loop, no thread of ours (ZeroMQ has its own), nothing that blocks once it serves.

Start-up (S23): runtime directory and locks, worker socket, fork server, xenstored, control
sockets, watches and scan. Whatever fails undoes what was done before it and says what failed.

End (SIGTERM, SIGINT): all workers are told to finish what is in flight and to end, in parallel,
within `timeouts.stop`; who does not is killed. Nothing is written to xenstore: devices stay in the
state they are in, and the next supervisor takes the connected ones up again (`Initialise` with
`resume`). To a guest it is a pause. Devices close when their type is switched off, or by the
toolstack.

Upgrade (SIGUSR2, `xenbackd upgrade`): `supervisor.upgrade`. A supervisor that dies leaves its
workers serving, and the next one adopts them: what was left is read before anything is taken up.

xenstored gone: workers serve on, the client reconnects, and everything is read again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path

import zmq

from config.errors import ConfigFileError
from config.loader import load
from config.model import Config
from shared.device_id import DeviceId
from shared.errors import BackendBug, BlamedError, ConfigError, HostError
from shared.worker_spec import HypervisorKind
from shared.xenstore.client import XenstoreClient
from shared.xenstore.errors import ConnectionLostError
from supervisor.device.adoption import close_orphan
from supervisor.device.device import Device
from supervisor.device.registry import Registry
from supervisor.device.scanner import Scanner
from supervisor.events import EventLog
from supervisor.instance import Instance
from supervisor.notify import notify
from supervisor.operator.control import Control
from supervisor.operator.operations import Operations
from supervisor.operator.reload import apply
from supervisor.places import embedded_dir, hypervisor_of, own_domid, xenstore_target
from supervisor.predecessors import Predecessors
from supervisor.upgrade import SIGNALS, Handover, Upgrade, signals_held
from supervisor.workers.bus import Bus
from supervisor.workers.confinement.door import make_door
from supervisor.workers.confinement.jails import Jails, check_unjailed, make_jails, warn_of_weak
from supervisor.workers.journals import Journals
from supervisor.workers.records import Orphan, Records
from supervisor.workers.spawner import ENTRY_POINT, PRELOAD, Spawner
from supervisor.workers.surroundings import Services
from supervisor.workers.watchdog import Watchdog
from supervisor.xenstore.publisher import Publisher

_log = logging.getLogger("xenbackd.supervisor")

Override = Callable[[Config], Config]
"""Puts what the command line says in the place of what the file says."""


class Supervisor:
    """One supervisor: `run()` serves until `stop()` or a signal."""

    def __init__(
        self,
        config: Config,
        config_path: Path,
        *,
        override: Override = lambda config: config,
        entry_point: str = ENTRY_POINT,
        preload: tuple[str, ...] = PRELOAD,
        handover: Handover | None = None,
        command: Sequence[str] = (),
        embedded_pid: int | None = None,
    ) -> None:
        """`config` is the file's with `override` applied, and so is what a reload reads.

        Of an upgrade: `handover` is what the image before left, `command` what this one is replaced
        by (empty: it cannot be), `embedded_pid` a child for the next one to end.
        """
        self.config = config
        self._override = override
        self.config_path = config_path
        self.registry: Registry[Device] = Registry()
        self.events = EventLog()
        self.started = asyncio.Event()
        """Set when everything that was there at the start is being served."""
        self._awake = asyncio.Event()
        """There is something to do but serve: to end, or an upgrade."""
        self._ending = False
        self._go_on = asyncio.Event()
        """Where xenstored went away in the middle of the start: it is back, or this is to end."""
        self._bug: BaseException | None = None
        self._entry_point = entry_point
        self._preload = preload
        self._directory = Path(config.runtime_dir).absolute()
        self._journals = Journals(self._directory)
        self._tasks: set[asyncio.Task[None]] = set()
        self._reloading = asyncio.Lock()
        self._lost = ""
        self._services: Services
        self._scanner: Scanner
        self._spawner: Spawner
        self._client: XenstoreClient
        self._records: Records
        self._orphans: dict[DeviceId, Orphan] = {}
        self._handover = handover
        self._upgrade = Upgrade(command, handover, embedded_pid)
        self._instance = Instance(self._directory)
        self._predecessors: Predecessors
        self._jails: Jails
        self._control: Control

    def stop(self) -> None:
        """Begin the end. Idempotent."""
        self._ending = True
        self._awake.set()
        self._go_on.set()

    async def run(self) -> None:
        """Serve until told to stop.

        Raises:
            ConfigError, HostError: it cannot start; everything opened is closed again.
            BackendBug: it ended because of a bug, in order.
        """
        async with contextlib.AsyncExitStack() as stack:
            self._handle_signals(stack)
            await self._open(stack)
            notify(f"READY=1\nSTATUS=serving {len(self.registry)} devices")
            _log.info("serving: %d devices", len(self.registry))
            self.started.set()
            while not self._ending:
                await self._awake.wait()
                self._awake.clear()
                if self._upgrade.wanted and not self._ending:
                    await self._replace()
            notify("STOPPING=1")
            await self._stand_down()
        if self._bug is not None:
            # Not a success: systemd is to start the next one.
            raise BackendBug(f"supervisor: process {os.getpid()}: {self._bug!r}") from self._bug

    # --- start

    async def _open(self, stack: contextlib.AsyncExitStack) -> None:
        config = self.config
        check_unjailed(config)
        warn_of_weak(config)
        hypervisor = hypervisor_of(config)
        handover = self._handover
        self._instance.open(None if handover is None else handover.lock)
        stack.callback(self._instance.close)
        self._predecessors = Predecessors(() if handover is None else handover.children)
        stack.callback(self._predecessors.close)
        self._records = records = Records(self._directory)
        self._orphans = records.load()
        stack.callback(self._close_orphans)
        self._journals.open()
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        stack.callback(context.destroy, 0)
        bus = Bus(context, make_door(self._directory))
        bus.open()
        stack.callback(bus.close)
        self._jails = make_jails(self._directory, bus.path.parent)
        # Before the fork server, which stays where it was started.
        self._jails.open(self._orphans)
        stack.callback(self._jails.close)
        self._spawner = Spawner(
            parallel=config.limits.parallel_starts,
            entry_point=self._entry_point,
            preload=self._preload,
            device_types=sorted({one.handler for one in config.types.values() if one.enabled}),
            locks=records,
            directory=self._directory / "fork",
        )
        bus.starts_pending = lambda: bool(self._orphans) or self._spawner.pids_pending()
        stack.push_async_callback(self._spawner.close)
        self._spawner.open()
        self._client = client = XenstoreClient(
            xenstore_target(config, hypervisor),
            timeout=config.xenstore.timeout,
            on_reconnect=self._xenstore_back,
            on_disconnect=self._xenstore_lost,
        )
        await client.connect()
        stack.push_async_callback(client.close)
        await self._make_services(bus, hypervisor)
        stack.push_async_callback(self._forget_all)
        await self._open_control(stack)
        self._start_watching(stack)
        await self._take_up()

    async def _make_services(self, bus: Bus, hypervisor: HypervisorKind) -> None:
        domid = await own_domid(self._client)
        own_path = await self._client.get_domain_path(domid)
        self._services = Services(
            config=self.config,
            store=self._client,
            publisher=Publisher(self._client, own_path),
            processes=self._spawner,
            messages=bus,
            records=self._records,
            events=self.events,
            clock=asyncio.get_running_loop().time,
            forget=self._forget,
            own_path=own_path,
            own_domid=domid,
            endpoint=str(bus.path),
            hypervisor=hypervisor,
            embedded_dir=str(embedded_dir(self.config)),
            supervisor_pid=os.getpid(),
            jails=self._jails,
            journals=self._journals,
            orphans=self._orphans,
        )
        self._scanner = Scanner(self._services, self.registry)

    async def _take_up(self) -> None:
        """Serve what is there. Workers may wait to be adopted, so a start is not given up where
        xenstored goes away in the middle of it."""
        while not self._ending:
            try:
                await self._scanner.open()
                await self._journals.sweep(self._client, self._services.own_path)
            except ConnectionLostError as error:
                _log.warning("start: %s: going on when xenstored is back", error)
                await self._go_on.wait()
            else:
                return

    async def _open_control(self, stack: contextlib.AsyncExitStack) -> None:
        operations = Operations(
            self._services,
            self.registry,
            reload=self.reload,
            xenstore_state=lambda: self._lost or "connected",
            resources=self._resources,
            upgrade=self.upgrade,
            upgrades=self._upgrade.count,
        )
        self._control = control = Control(self._directory, operations)
        stack.push_async_callback(control.close)
        control.open()
        self.events.listener = control.publish

    def _start_watching(self, stack: contextlib.AsyncExitStack) -> None:
        watchdog = Watchdog(
            lambda: (device.link for device in self.registry),
            lambda: self._services.config,
        )
        watchdog.start()
        stack.callback(watchdog.stop)
        self._spawn(self._client.events.hand_out(self._scanner.dispatch))

    def _handle_signals(self, stack: contextlib.AsyncExitStack) -> None:
        loop = asyncio.get_running_loop()
        handlers = {
            signal.SIGTERM: self.stop,
            signal.SIGINT: self.stop,
            signal.SIGHUP: lambda: self._on_signal("reload", "the old configuration", self.reload),
            signal.SIGUSR2: lambda: self._on_signal("upgrade", "the old image", self.upgrade),
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
            stack.callback(loop.remove_signal_handler, number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # blocked by the image before

    # --- end

    async def _stand_down(self) -> None:
        _log.info("stopping: %d workers", len(self._spawner))
        for device in self.registry:
            device.stand_down()
        try:
            async with asyncio.timeout(self._services.config.timeouts.stop):
                await self._spawner.wait_empty()
        except TimeoutError:
            _log.error("stopping: %d workers do not end; killing them", len(self._spawner))

    async def _forget_all(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._scanner.close()
        for device in self.registry:
            device.stand_down()
            await device.close()

    def _close_orphans(self) -> None:
        """Who was not taken up (xenstored was away) lives on for the next supervisor."""
        for orphan in self._orphans.values():
            close_orphan(orphan)

    # --- while it serves

    def _forget(self, device: DeviceId) -> None:
        self._journals.remove(device)
        self._scanner.forget(device)

    def _xenstore_lost(self, cause: str) -> None:
        if not self._ending:
            self._go_on.clear()
        self._lost = f"lost: {cause}"
        self.events.add("xenstore", "", self._lost)
        notify("STATUS=xenstored is gone; devices are served on")

    async def _xenstore_back(self) -> None:
        self._lost = ""
        self._go_on.set()
        self.events.add("xenstore", "", "connected again")
        notify("STATUS=serving")
        await self._scanner.rescan()

    def _on_signal(self, what: str, kept: str, does: Callable[[], Awaitable[str]]) -> None:
        async def perform() -> None:
            try:
                _log.info("%s: %s", what, await does())
            except BlamedError as error:
                _log.error("%s: %s stays: %s", what, kept, error)

        self._spawn(perform())

    async def upgrade(self) -> str:
        """Check the installed code, then replace this image by it as soon as that was answered.

        Raises:
            ConfigError: the new code refuses the configuration; nothing has changed.
            HostError: the new code cannot be run, or this process not replaced.
        """
        async with self._reloading:
            await self._upgrade.prepare()
            if not self._ending:
                self.events.add("upgrade", "", "the installed code is good; replacing this one")
                self._upgrade.wanted = True
                self._awake.set()
        return "the installed code is good; the supervisor is replaced"

    async def _replace(self) -> None:
        """Become the new image; if that cannot be, go on serving, or end if that was asked for."""
        self._upgrade.wanted = False
        stamp = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        notify(f"RELOADING=1\nMONOTONIC_USEC={stamp}\nSTATUS=upgrading")
        _log.info("upgrade: replacing this image")
        # Also sends what is on its way to the command line.
        await self._control.close()
        children = (*self._predecessors.pids, *self._spawner.helpers())
        try:
            async with signals_held():
                if not self._ending:
                    self._upgrade.carry_out(self._instance.lock, children)
        except HostError as error:
            _log.error("%s", error)
            self.events.add("upgrade", "", f"failed: {error}")
            self._control.open()
            notify("READY=1\nSTATUS=serving")

    async def reload(self) -> str:
        """Read the configuration file again and apply what is different; says what that was.

        Raises:
            ConfigError: the file is wrong; nothing has changed.
            HostError: a type that was switched on cannot be watched.
        """
        async with self._reloading:
            try:
                loaded = self._override(load(self.config_path))
            except ConfigFileError as error:
                raise ConfigError(str(error)) from error
            check_unjailed(loaded)
            changes = await apply(loaded, self._services, self.registry, self._scanner)
            self.config = self._services.config
            self._spawner.parallel = self.config.limits.parallel_starts
            return changes

    def _resources(self) -> dict[str, int]:
        statistics = self._client.statistics()
        return {
            "watches": statistics.watches,
            "workers": len(self._spawner),
            "xenstore_requests": statistics.requests,
            "xenstore_reconnects": statistics.reconnects,
            "events_coalesced": statistics.events_coalesced,
        }

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.critical("bug in the supervisor; please report it", exc_info=error)
            self._bug = self._bug or error
            self.stop()
