# SPDX-License-Identifier: MIT
"""A new configuration: what it changes, and what it cannot change in a running supervisor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from config.errors import ConfigFileError
from config.loader import load
from config.model import Config, TypeConfig
from shared import logs
from shared.errors import ConfigError
from shared.lifecycle_types import Hold
from supervisor.device.device import Device
from supervisor.device.registry import Registry
from supervisor.device.scanner import Scanner
from supervisor.device.surroundings import DeviceSurroundings
from supervisor.workers.confinement.jails import check_unjailed, jail_of, warn_of_weak

Override = Callable[[Config], Config]
"""Puts what the command line says in the place of what the file says."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Types by what happens to them, and settings that only count from the next start on."""

    switched_on: tuple[str, ...]
    switched_off: tuple[str, ...]
    changed: tuple[str, ...]
    """On before and after, with other settings, which new workers get."""
    next_start: tuple[str, ...]

    def __str__(self) -> str:
        parts = [
            f"{word} {', '.join(names)}"
            for word, names in (
                ("on:", self.switched_on),
                ("off:", self.switched_off),
                ("changed:", self.changed),
                ("only after a new start:", self.next_start),
            )
            if names
        ]
        return "; ".join(parts) or "nothing changed"


def difference(old: Config, new: Config) -> Difference:
    """Compare two valid configurations."""
    before = {name for name, type_ in old.types.items() if type_.enabled}
    after = {name for name, type_ in new.types.items() if type_.enabled}
    both = before & after
    # Another handler would be another device behind a ring that is in use.
    swapped = {name for name in both if old.types[name].handler != new.types[name].handler}
    changed = {
        name
        for name in both
        if old.types[name] != new.types[name] or jail_of(old, name) != jail_of(new, name)
    }
    fixed = ("runtime_dir", "hypervisor", "embedded_dir", "xenstore")
    return Difference(
        switched_on=tuple(sorted(after - before)),
        switched_off=tuple(sorted(before - after)),
        changed=tuple(sorted(changed)),
        next_start=(
            *(name for name in fixed if getattr(old, name) != getattr(new, name)),
            *(f"types.{name}.handler" for name in sorted(swapped)),
        ),
    )


def effective(old: Config, new: Config) -> Config:
    """The new configuration, except what a running supervisor cannot change."""
    kept = {
        name: msgspec.structs.replace(type_, handler=old.types[name].handler)
        if name in old.types and old.types[name].enabled
        else type_
        for name, type_ in new.types.items()
    }
    return msgspec.structs.replace(
        new,
        types=kept,
        runtime_dir=old.runtime_dir,
        hypervisor=old.hypervisor,
        embedded_dir=old.embedded_dir,
        xenstore=old.xenstore,
    )


async def reload(
    path: Path,
    override: Override,
    around: DeviceSurroundings,
    registry: Registry[Device],
    scanner: Scanner,
) -> str:
    """Put the file's configuration in force as far as possible; returns what is different.

    Raises:
        ConfigError: the file is wrong; nothing has changed.
        HostError: a type that was switched on cannot be watched; everything else is in force.
    """
    try:
        loaded = override(load(path))
    except ConfigFileError as error:
        raise ConfigError(str(error)) from error
    check_unjailed(loaded)
    changes = difference(around.config, loaded)
    config = around.config = effective(around.config, loaded)
    logs.setup(config.log.level, config.log.format)
    warn_of_weak(config)
    for device in registry:
        type_config = config.types.get(device.id.type)
        if type_config is not None:
            reconfigure(device, type_config, config)
    for type_ in changes.switched_off:
        scanner.disable(type_)
    for type_ in changes.switched_on:
        await scanner.enable(type_)
    around.events.add("reload", "", str(changes))
    return str(changes)


def reconfigure(device: Device, type_config: TypeConfig, config: Config) -> None:
    """Give new workers the new options; a device that waits for the operator tries again."""
    link = device.link
    before = link.type_config.log_level
    # Another handler would be another device behind a ring that is in use.
    link.type_config = msgspec.structs.replace(type_config, handler=link.type_config.handler)
    link.succession.policy.config = type_config.restart or config.restart
    if type_config.log_level != before:
        device.set_log_level(type_config.log_level or config.log.level)
    if device.lifecycle.hold is Hold.CONFIG:
        device.release()
