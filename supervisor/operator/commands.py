# SPDX-License-Identifier: MIT
"""Commands of a device's type (`shared.commands`): what there is, and carrying one out.

What the operator typed is checked here, against the manifest, so that a worker only gets what its
type declares. The number of commands under way is limited: each takes a place among the requests
of the command line, of which `status` and `restart` need some whatever workers do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import inspect

from config.check import describe, suggest
from shared import control as c
from shared.commands import Command
from shared.device_types import resolve
from shared.errors import ConfigError, HostError
from shared.lifecycle_types import WorkerPhase
from shared.limits import BUS_QUEUE_MAX
from supervisor.device.device import Device
from supervisor.events import EventLog

COMMANDS_MAX: Final = BUS_QUEUE_MAX // 2
"""Commands under way over all devices: half of the requests that are taken at one time."""

_TAKES_COMMANDS: Final = frozenset({WorkerPhase.READY, WorkerPhase.SERVING})


class DeviceCommands:
    """Of all devices."""

    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._under_way = 0

    def about(self, device: Device) -> c.CommandsReply:
        """The commands of a device's type."""
        handler = device.link.type_config.handler
        return c.CommandsReply(handler=handler, commands=[_about(one) for one in _known(device)])

    async def perform(
        self, device: Device, name: str, arguments: Mapping[str, str]
    ) -> c.CommandReply:
        """Carry out one command.

        Raises:
            ConfigError: there is no such command, or the arguments do not fit it.
            HostError: the device has no worker for it, too many are under way, or no answer comes.
            BlamedError: what the worker says.
        """
        commands = {one.name: one for one in _known(device)}
        if name not in commands:
            text = f"command: {device.id}: {name}: unknown command; {suggest(name, commands)}"
            raise ConfigError(text)
        command = commands[name]
        what = f"command: {device.id}: {name}"
        try:
            checked = read_arguments(command, arguments)
        except ConfigError as error:
            raise ConfigError(f"{what}: {error}") from error
        if (phase := device.lifecycle.worker) not in _TAKES_COMMANDS:
            raise HostError(f"{what}: its worker is {phase.value}: it takes none at the moment")
        if self._under_way >= COMMANDS_MAX:
            raise HostError(f"{what}: busy: {COMMANDS_MAX} commands are under way")
        self._under_way += 1
        self._events.add("command", str(device.id), f"{name}, asked for by the operator")
        try:
            reply = await device.link.commands.ask(command, msgspec.msgpack.encode(checked))
        finally:
            self._under_way -= 1
        return c.CommandReply(value=msgspec.Raw(reply))


def read_arguments(command: Command, arguments: Mapping[str, str]) -> msgspec.Struct:
    """What was typed as the command's model of its arguments.

    Raises:
        ConfigError: it does not fit; the text begins with the argument.
    """
    fields = {field.encode_name: field for field in msgspec.structs.fields(command.arguments)}
    values: dict[str, Any] = {}
    for key, typed in arguments.items():
        if key not in fields:
            raise ConfigError(f"{key}: unknown argument; {suggest(key, fields)}")
        values[key] = _value(key, typed, fields[key].type)
    for key, field in fields.items():
        if field.required and key not in values:
            raise ConfigError(f"{key}: missing; {_described(field)}")
    try:
        return msgspec.convert(values, command.arguments)
    except msgspec.ValidationError as error:  # what the model checks by code of its own
        raise ConfigError(str(error)) from error


def _value(key: str, typed: str, kind: Any) -> Any:
    try:
        value = msgspec.convert(typed, kind, strict=False)
        # No type expects them: infinite and undefined numbers can be typed, and nothing else.
        if not isinstance(value, float) or math.isfinite(value):
            return value
    except msgspec.ValidationError:
        pass
    raise ConfigError(f"{key}: expected {describe(inspect.type_info(kind))}, got {typed!r}")


def _known(device: Device) -> tuple[Command, ...]:
    return resolve(device.link.type_config.handler).commands


def _about(command: Command) -> c.CommandAbout:
    arguments = tuple(
        c.ArgumentAbout(field.encode_name, _described(field), field.required)
        for field in msgspec.structs.fields(command.arguments)
    )
    return c.CommandAbout(
        name=command.name,
        meaning=command.meaning,
        arguments=arguments,
        seconds=command.seconds,
    )


def _described(field: msgspec.structs.FieldInfo) -> str:
    return describe(inspect.type_info(field.type))
