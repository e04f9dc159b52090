# SPDX-License-Identifier: MIT
"""The supervisor process: how it starts, serves, changes and ends.

One asyncio loop, no thread of ours (ZeroMQ has its own), nothing that blocks once it serves.

Start-up (S23): the parts (`supervisor.parts`), control sockets, watches and scan. If a step fails,
those before it are undone, and the error says which one it was.

End (SIGTERM, SIGINT): all workers are told to finish what is in flight and to end, in parallel,
within `timeouts.stop`; those that do not are killed. Nothing is written to xenstore: devices stay
in the state they are in, and the next supervisor takes the connected ones up again (`Initialise`
with `resume`). To a guest it is a pause. Devices are closed when their type is switched off, or by
the toolstack.

Upgrade (SIGUSR2, `xenbackd upgrade`): `supervisor.upgrade`. A supervisor that dies leaves its
workers serving, and the next one adopts them: what was left is read before anything is taken up.

xenstored gone: workers go on serving, the client reconnects, and everything is read again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from config.model import Config
from shared.device_id import DeviceId
from shared.errors import BackendBug, BlamedError, HostError
from shared.xenstore.errors import ConnectionLostError
from supervisor.device.device import Device
from supervisor.device.registry import Registry
from supervisor.device.scanner import Scanner
from supervisor.device.surroundings import DeviceSurroundings
from supervisor.events import EventLog
from supervisor.notify import notify
from supervisor.operator.control import Control
from supervisor.operator.operations import Operations
from supervisor.operator.reload import Override, reload
from supervisor.parts import Parts, open_parts
from supervisor.tasks import Tasks
from supervisor.upgrade import SIGNALS, Handover, Upgrade, signals_held
from supervisor.workers.spawner import ENTRY_POINT, PRELOAD
from supervisor.workers.watchdog import Watchdog

_log = logging.getLogger("xenbackd.supervisor")


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

        For an upgrade: `handover` is what the image before left, `command` replaces this one
        (empty: nothing can), `embedded_pid` is a child that the next image is to end.
        """
        self._config = config
        self._override = override
        self._config_path = config_path
        self._directory = Path(config.runtime_dir).absolute()
        self._entry_point = entry_point
        self._preload = preload
        self._handover = handover
        self._upgrade = Upgrade(command, handover, embedded_pid)
        self.registry: Registry[Device] = Registry()
        self.events = EventLog()
        self.started = asyncio.Event()
        """Set when everything that was there at the start is being served."""
        self._awake = asyncio.Event()
        """There is something to do besides serving: to end, or an upgrade."""
        self._ending = False
        self._go_on = asyncio.Event()
        """If xenstored went away in the middle of the start: it is back, or this is to end."""
        self._lost = ""
        """Why there is no xenstored; "" if there is."""
        self._bug: BaseException | None = None
        self._tasks = Tasks(self._end_by_bug)
        self._changing = asyncio.Lock()
        """One reload or upgrade at a time."""
        self._parts: Parts
        self._around: DeviceSurroundings
        self._scanner: Scanner
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
        self._parts = await open_parts(
            self._config,
            self._directory,
            stack,
            handover=self._handover,
            entry_point=self._entry_point,
            preload=self._preload,
            xenstore_back=self._xenstore_back,
            xenstore_lost=self._xenstore_lost,
        )
        self._around = await self._parts.surroundings(self._config, self.events, self._forget)
        self._scanner = Scanner(self._around, self.registry)
        stack.push_async_callback(self._forget_all)
        await self._open_control(stack)
        self._start_watching(stack)
        await self._take_up()

    async def _open_control(self, stack: contextlib.AsyncExitStack) -> None:
        operations = Operations(
            self._around,
            self.registry,
            reload=self.reload,
            xenstore_state=lambda: self._lost or "connected",
            resources=self._parts.resources,
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
            lambda: self._around.config,
        )
        watchdog.start()
        stack.callback(watchdog.stop)
        self._tasks.spawn(self._parts.client.events.hand_out(self._scanner.dispatch))

    async def _take_up(self) -> None:
        """Serve what is there. Workers may wait to be adopted, so a start is not given up when
        xenstored goes away in the middle of it."""
        while not self._ending:
            try:
                await self._scanner.open()
                await self._parts.journals.sweep(self._parts.client, self._around.own_path)
            except ConnectionLostError as error:
                _log.warning("start: %s: going on when xenstored is back", error)
                await self._go_on.wait()
            else:
                return

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
        spawner = self._parts.spawner
        _log.info("stopping: %d workers", len(spawner))
        for device in self.registry:
            device.stand_down()
        try:
            async with asyncio.timeout(self._around.config.timeouts.stop):
                await spawner.wait_empty()
        except TimeoutError:
            _log.error("stopping: %d workers do not end; killing them", len(spawner))

    async def _forget_all(self) -> None:
        await self._tasks.close()
        await self._scanner.close()
        for device in self.registry:
            device.stand_down()
            await device.close()

    def _end_by_bug(self, error: BaseException) -> None:
        _log.critical("bug in the supervisor; please report it", exc_info=error)
        self._bug = self._bug or error
        self.stop()

    # --- while it serves

    def _forget(self, device: DeviceId) -> None:
        self._parts.journals.remove(device)
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

    # --- what changes it

    def _on_signal(self, what: str, kept: str, does: Callable[[], Awaitable[str]]) -> None:
        async def perform() -> None:
            try:
                _log.info("%s: %s", what, await does())
            except BlamedError as error:
                _log.error("%s: %s stays: %s", what, kept, error)

        self._tasks.spawn(perform())

    async def reload(self) -> str:
        """Read the configuration file again and apply what is different; returns what that was.

        Raises:
            ConfigError: the file is wrong; nothing has changed.
            HostError: a type that was switched on cannot be watched.
        """
        async with self._changing:
            changes = await reload(
                self._config_path, self._override, self._around, self.registry, self._scanner
            )
            self._parts.spawner.parallel = self._around.config.limits.parallel_starts
            return changes

    async def upgrade(self) -> str:
        """Check the installed code, then replace this image by it once this has been answered.

        Raises:
            ConfigError: the new code refuses the configuration; nothing has changed.
            HostError: the new code cannot be run, or this process not replaced.
        """
        async with self._changing:
            await self._upgrade.prepare()
            if not self._ending:
                self.events.add("upgrade", "", "the installed code is good; replacing this one")
                self._upgrade.wanted = True
                self._awake.set()
        return "the installed code is good; the supervisor is replaced"

    async def _replace(self) -> None:
        """Become the new image. If that fails, go on serving, or end if that was asked for."""
        self._upgrade.wanted = False
        stamp = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        notify(f"RELOADING=1\nMONOTONIC_USEC={stamp}\nSTATUS=upgrading")
        _log.info("upgrade: replacing this image")
        # Also sends what is on its way to the command line.
        await self._control.close()
        parts = self._parts
        children = (*parts.predecessors.pids, *parts.spawner.helpers())
        try:
            async with signals_held():
                if not self._ending:
                    self._upgrade.carry_out(parts.instance.lock, children)
        except HostError as error:
            _log.error("%s", error)
            self.events.add("upgrade", "", f"failed: {error}")
            self._control.open()
            notify("READY=1\nSTATUS=serving")
