# SPDX-License-Identifier: MIT
"""How a device is made, also from what an earlier supervisor left.

Such a device begins with a worker that is believed to be there and has not spoken (`ADOPTING`). So
nothing is started for it, and everything read from xenstore is fed to its life cycle as always.
The worker then says what it is doing, and from then on the device is like any other. If the worker
died meanwhile, the device begins in the same way and hears of the death when it is adopted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from config.model import TypeConfig
from shared.device_id import DeviceId
from shared.device_types import DeviceType, Traits, resolve
from shared.errors import ConfigError
from shared.lifecycle_types import Hold, Lifecycle, WorkerPhase
from supervisor.device.device import Device
from supervisor.device.surroundings import DeviceSurroundings
from supervisor.workers.records import Orphan, WorkerRecord


def make_device(
    id_: DeviceId,
    frontend_path: str,
    around: DeviceSurroundings,
    handlers: Mapping[str, DeviceType],
    orphan: Orphan | None,
    nodes: Mapping[str, bytes] = MappingProxyType({}),
) -> Device:
    """A device of an enabled type (`handlers`), or one that an earlier supervisor left.

    `nodes` are those of its backend directory, for a type whose devices differ (`traits_of`).

    Raises:
        ConfigError: the handler that its worker runs is not installed any more, or fails.
    """
    handler = handlers.get(id_.type)
    if orphan is not None and (handler is None or orphan.pidfd is not None):
        handler = resolve(orphan.record.handler)
    assert handler is not None
    type_config = around.config.types.get(id_.type)
    if type_config is None:
        assert orphan is not None  # its type is not in the configuration any more
        type_config = TypeConfig(handler=orphan.record.handler, enabled=False)
    life = Lifecycle(traits=_traits(id_, handler, nodes))
    if orphan is not None:
        life = replace(
            life,
            worker=WorkerPhase.ABSENT if orphan.record.pid is None else WorkerPhase.ADOPTING,
            hold=_hold_of(orphan.record),
        )
    return Device(id_, frontend_path, around, type_config, handler, life)


def _traits(id_: DeviceId, handler: DeviceType, nodes: Mapping[str, bytes]) -> Traits:
    if handler.traits_of is None or not nodes:
        return handler.traits
    try:
        return handler.traits_of(nodes)
    except Exception as error:
        # Code of another distribution may raise anything; to the operator it is one thing.
        raise ConfigError(f"set-up: {id_}: type {handler.name}: traits_of: {error!r}") from error


def _hold_of(record: WorkerRecord) -> Hold:
    if record.quarantined:
        return Hold.QUARANTINED
    # The pause may be over by now: the device's link finds that out, and ends it.
    return Hold.BACKOFF if record.held_until else Hold.NONE


def close_orphan(orphan: Orphan) -> None:
    """It does not become a device here: its worker lives on for a later supervisor to adopt."""
    if orphan.pidfd is not None:
        os.close(orphan.pidfd)
