# SPDX-License-Identifier: MIT
"""What the next worker of a device is told at its birth."""

from __future__ import annotations

from config.model import DeviceTimeouts, TypeConfig, drain_of
from shared.device_id import DeviceId
from shared.device_types import resolve
from shared.worker_spec import WorkerSpec
from supervisor.workers.surroundings import Services


def make_spec(
    device: DeviceId,
    generation: int,
    services: Services,
    type_: TypeConfig,
    timeouts: DeviceTimeouts,
    log_level: str,
) -> WorkerSpec:
    """From the configuration as it is now; what its jail needs is the device's from here on.

    Raises:
        HostError: its jail cannot be prepared.
    """
    about = resolve(type_.handler)
    journals = services.journals if about.journals else None
    return WorkerSpec(
        device=device,
        generation=generation,
        backend_domid=services.own_domid,
        handler=type_.handler,
        options=type_.options,
        endpoint=services.endpoint,
        hypervisor=services.hypervisor,
        embedded_dir=services.embedded_dir,
        supervisor_pid=services.supervisor_pid,
        journal=str(journals.path(device)) if journals else "",
        jail=services.jails.prepare(device, generation, type_.jail or services.config.jail),
        log_level=log_level,
        log_format=services.config.log.format,
        beat=timeouts.beat,
        drain=drain_of(timeouts, about.drain),
        orphan_grace=type_.orphan_grace if type_.orphan == "survive" else 0.0,
    )
