# SPDX-License-Identifier: MIT
"""What the requests of the command line do (`shared.control`), and what they tell of a device."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, get_args

from config.model import Level
from shared import control as c
from shared.device_types import resolve
from shared.errors import ConfigError
from shared.lifecycle_types import Hold
from shared.version import version
from supervisor.device.device import Device
from supervisor.device.registry import Registry
from supervisor.device.surroundings import DeviceSurroundings
from supervisor.operator.commands import DeviceCommands
from supervisor.operator.rolling import Rolling, choose
from supervisor.xenstore.snapshot import read_backend, read_frontend

DEVICE_EVENTS: Final = 20
"""Events of one device in the answer to `show`."""

VALUE_SHOWN: Final = 256
"""Bytes of a node's value that are shown."""

_OfADevice = c.Show | c.Restart | c.Clear | c.LogLevel | c.Commands | c.Command

_LEVELS: Final = get_args(Level)


class Operations:
    """Answers from memory, except for the nodes that `show` reads."""

    def __init__(
        self,
        around: DeviceSurroundings,
        registry: Registry[Device],
        *,
        reload: Callable[[], Awaitable[str]],
        upgrade: Callable[[], Awaitable[str]],
        upgrades: int,
        xenstore_state: Callable[[], str],
        resources: Callable[[], dict[str, int]],
    ) -> None:
        self._around = around
        self._registry = registry
        self._reload = reload
        self._upgrade = upgrade
        self._upgrades = upgrades
        self._xenstore_state = xenstore_state
        self._resources = resources
        self._commands = DeviceCommands(around.events)
        self._since = around.clock()

    def status(self) -> c.StatusReply:
        """All devices, in the order of their names."""
        around = self._around
        types = around.config.types
        now = around.clock()
        return c.StatusReply(
            version=version(),
            pid=around.supervisor_pid,
            uptime=now - self._since,
            xenstore=self._xenstore_state(),
            hypervisor=around.hypervisor,
            types={name: type_.handler for name, type_ in types.items() if type_.enabled},
            counters={
                name: resolve(type_.handler).counters
                for name, type_ in types.items()
                if type_.enabled
            },
            devices=[status_of(d, now) for d in sorted(self._registry, key=lambda d: d.id)],
            upgrades=self._upgrades,
            resources={"descriptors": _descriptors(), **self._resources()},
        )

    async def show(self, request: c.Show) -> c.ShowReply:
        """One device, its nodes and its last events; raises ConfigError, HostError."""
        device = self._find(request)
        store = self._around.store
        backend = await read_backend(store, device.path)
        untrusted_frontend = await read_frontend(store, device.frontend_path)
        return c.ShowReply(
            device=status_of(device, self._around.clock()),
            counters=resolve(device.link.type_config.handler).counters,
            backend_path=device.path,
            frontend_path=device.frontend_path,
            backend_nodes={name: _printable(value) for name, value in backend.items()},
            frontend_nodes={
                _printable(name.encode()): _printable(value)
                for name, value in untrusted_frontend.items()
            },
            events=self._around.events.last(DEVICE_EVENTS, request.device),
        )

    def last_events(self, request: c.Events) -> c.EventsReply:
        """Newest events, oldest first."""
        return c.EventsReply(events=self._around.events.last(request.count))

    def restart(self, request: c.Restart) -> c.Done:
        """Replace a worker; raises ConfigError, also for a device in quarantine."""
        device = self._find(request)
        if device.lifecycle.hold is Hold.QUARANTINED:
            # Replacing workers by the dozen must not release one of them.
            text = "in quarantine, which only `xenbackd clear` ends"
            raise ConfigError(f"restart: {device.id}: {text}")
        self._around.events.add("restart", str(device.id), "asked for by the operator")
        device.replace_worker()
        return c.Done(text=f"{device.id}: worker is replaced")

    def clear(self, request: c.Clear) -> c.Done:
        """End what holds a device back and forget its failures; raises ConfigError."""
        device = self._find(request)
        hold, failures = device.lifecycle.hold, device.link.succession.policy.failures
        self._around.events.add("clear", str(device.id), "asked for by the operator")
        device.release()
        ended = f"{hold.value} ended, " if hold is not Hold.NONE else ""
        return c.Done(text=f"{device.id}: {ended}{failures} failures forgotten")

    async def restart_rolling(self, request: c.RestartRolling) -> c.Done:
        """Replace workers one after the other; raises ConfigError, HostError."""
        devices = choose(self._registry, request.targets)
        rolling = Rolling(devices, self._around.events, request.parallel)
        return c.Done(text=await rolling.run())

    async def upgrade(self) -> c.Done:
        """Replace the supervisor; raises ConfigError, HostError."""
        return c.Done(text=await self._upgrade())

    async def reload(self) -> c.Done:
        """Apply the configuration file; raises ConfigError, HostError."""
        return c.Done(text=await self._reload())

    def log_level(self, request: c.LogLevel) -> c.Done:
        """Change a device's log level; raises ConfigError."""
        device = self._find(request)
        if request.level not in _LEVELS:
            raise ConfigError(f"log level: {request.level!r}: one of {', '.join(_LEVELS)}")
        device.set_log_level(request.level)
        return c.Done(text=f"{device.id}: log level {request.level}")

    def commands(self, request: c.Commands) -> c.CommandsReply:
        """What can be asked of a device; raises ConfigError."""
        return self._commands.about(self._find(request))

    async def command(self, request: c.Command) -> c.CommandReply:
        """Have a device's worker carry out a command; raises what the worker says, HostError."""
        device = self._find(request)
        return await self._commands.perform(device, request.name, request.arguments)

    def _find(self, request: _OfADevice) -> Device:
        name = c.device_of(request)
        device = self._registry.get(name)
        if device is None:
            raise ConfigError(f"device: {name}: there is none of that name")
        return device


def status_of(device: Device, now: float) -> c.DeviceStatus:
    """One line of `status`, at the time `now` of the loop's clock."""
    life, link = device.lifecycle, device.link
    policy = link.succession.policy
    return c.DeviceStatus(
        device=str(device.id),
        backend=str(life.backend),
        frontend=str(life.frontend),
        online=life.online,
        phase=life.worker.value,
        hold=_hold(device),
        pid=link.pid,
        generation=link.generation,
        restarts=max(0, link.generation - 1),
        failures=policy.failures,
        last_failure=policy.last,
        health=link.health.word,
        error=device.reporter.text,
        since=max(0.0, now - device.since),
        counters=link.health.counters,
        jail=link.jail.steps if link.jail else (),
        jail_left_out=link.jail.left_out if link.jail else (),
    )


def _hold(device: Device) -> str:
    if device.link.ending.unkillable:
        return "unkillable"
    return device.lifecycle.hold.value or ("" if device.lifecycle.enabled else "disabled")


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _printable(untrusted_value: bytes) -> str:
    """A value as text that is safe on a terminal."""
    text = untrusted_value[:VALUE_SHOWN].decode("utf-8", "replace")
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
