# SPDX-License-Identifier: MIT
"""The parts of a supervisor, opened in the order in which they need each other (S23).

Runtime directory and locks, what earlier supervisors left, worker socket, jails, fork server,
xenstored. If one cannot be opened, those before it are closed again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import zmq

from config.model import Config
from shared.device_id import DeviceId
from shared.device_types import own_types
from shared.worker_spec import HypervisorKind
from shared.xenstore.client import XenstoreClient
from supervisor.device.adoption import close_orphan
from supervisor.device.surroundings import DeviceSurroundings
from supervisor.events import EventLog
from supervisor.instance import Instance
from supervisor.places import embedded_dir, hypervisor_of, own_domid, xenstore_target
from supervisor.predecessors import Predecessors
from supervisor.upgrade import Handover
from supervisor.workers.bus import Bus
from supervisor.workers.confinement.door import make_door
from supervisor.workers.confinement.jails import Jails, check_unjailed, make_jails, warn_of_weak
from supervisor.workers.journals import Journals
from supervisor.workers.records import Orphan, Records, kept_jails
from supervisor.workers.spawner import Spawner
from supervisor.xenstore.publisher import Publisher


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that devices, operator and the end of a supervisor need."""

    instance: Instance
    predecessors: Predecessors
    records: Records
    orphans: dict[DeviceId, Orphan]
    journals: Journals
    jails: Jails
    bus: Bus
    spawner: Spawner
    client: XenstoreClient
    hypervisor: HypervisorKind

    async def surroundings(
        self, config: Config, events: EventLog, forget: Callable[[DeviceId], None]
    ) -> DeviceSurroundings:
        """What devices share.

        Raises:
            HostError: our own domain cannot be found out.
        """
        domid = await own_domid(self.client)
        own_path = await self.client.get_domain_path(domid)
        return DeviceSurroundings(
            config=config,
            store=self.client,
            publisher=Publisher(self.client, own_path),
            processes=self.spawner,
            messages=self.bus,
            records=self.records,
            events=events,
            clock=asyncio.get_running_loop().time,
            forget=forget,
            own_path=own_path,
            own_domid=domid,
            endpoint=str(self.bus.path),
            hypervisor=self.hypervisor,
            embedded_dir=str(embedded_dir(config)),
            supervisor_pid=os.getpid(),
            jails=self.jails,
            journals=self.journals,
            orphans=self.orphans,
        )

    def resources(self) -> dict[str, int]:
        """Figures for `status`."""
        statistics = self.client.statistics()
        return {
            "watches": statistics.watches,
            "workers": len(self.spawner),
            "xenstore_requests": statistics.requests,
            "xenstore_reconnects": statistics.reconnects,
            "events_coalesced": statistics.events_coalesced,
        }


async def open_parts(
    config: Config,
    directory: Path,
    stack: contextlib.AsyncExitStack,
    *,
    handover: Handover | None,
    entry_point: str,
    preload: tuple[str, ...],
    xenstore_back: Callable[[], Awaitable[None]],
    xenstore_lost: Callable[[str], None],
) -> Parts:
    """Open them in the runtime directory; `stack` closes them.

    Raises:
        ConfigError, HostError: one cannot be opened.
    """
    check_unjailed(config)
    warn_of_weak(config)
    hypervisor = hypervisor_of(config)
    instance = Instance(directory)
    instance.open(None if handover is None else handover.lock)
    stack.callback(instance.close)
    predecessors = Predecessors(() if handover is None else handover.children)
    stack.callback(predecessors.close)
    records = Records(directory)
    orphans = records.load()
    stack.callback(_close_orphans, orphans)
    journals = Journals(directory)
    journals.open()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    stack.callback(context.destroy, 0)
    bus = Bus(context, make_door(directory))
    bus.open()
    stack.callback(bus.close)
    jails = make_jails(directory, bus.path.parent)
    # Before the fork server, which stays in the control group that it was started in.
    jails.open(kept_jails(orphans))
    stack.callback(jails.close)
    spawner = Spawner(
        parallel=config.limits.parallel_starts,
        entry_point=entry_point,
        preload=preload,
        device_types=_preloaded(config),
        locks=records,
        directory=directory / "fork",
    )
    bus.starts_pending = lambda: bool(orphans) or spawner.pids_pending()
    stack.push_async_callback(spawner.close)
    spawner.open()
    client = XenstoreClient(
        xenstore_target(config, hypervisor),
        timeout=config.xenstore.timeout,
        on_reconnect=xenstore_back,
        on_disconnect=xenstore_lost,
    )
    await client.connect()
    stack.push_async_callback(client.close)
    return Parts(
        instance=instance,
        predecessors=predecessors,
        records=records,
        orphans=orphans,
        journals=journals,
        jails=jails,
        bus=bus,
        spawner=spawner,
        client=client,
        hypervisor=hypervisor,
    )


def _preloaded(config: Config) -> list[str]:
    """Device types that the fork server loads: ours, which a reload may switch on, and others that
    are switched on now."""
    ours = {one.name for one in own_types()}
    return sorted(ours | {one.handler for one in config.types.values() if one.enabled})


def _close_orphans(orphans: dict[DeviceId, Orphan]) -> None:
    """Workers that were not taken up (xenstored was away) live on for the next supervisor."""
    for orphan in orphans.values():
        close_orphan(orphan)
