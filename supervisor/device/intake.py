# SPDX-License-Identifier: MIT
"""Takes devices up (S11): from a backend directory to a device of the registry.

Invariants:

- Devices are taken up at most `PARALLEL` at a time, each by one task. An event about a device that
  is being taken up makes it looked at again.
- What an earlier supervisor left (`DeviceSurroundings.orphans`) becomes a device, even if its
  directory is gone or its type is off: its worker must have an owner.
- A domain that xenstored does not know (dead, or not introduced yet) has no devices: what is still
  in its directories is for the toolstack to remove.
- A device that its type declines (`DeviceType.accepts`) is left alone: nothing is written, reported
  or counted for it. It is looked at again when anything in its directory changes.
- Why a device cannot be taken up is reported once for each cause (log, event stream, error node),
  and it is tried again when anything in its directory changes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Final

from shared import lifecycle_types as t
from shared.device_id import DeviceId
from shared.device_types import DeviceType
from shared.errors import Blame, BlamedError, ConfigError, HostError
from shared.messages import Nodes
from shared.xenbus import XenbusState
from shared.xenstore.errors import ConnectionLostError
from supervisor.device.adoption import close_orphan, make_device
from supervisor.device.device import Device
from supervisor.device.registry import Registry
from supervisor.device.surroundings import DeviceSurroundings
from supervisor.device.watches import Watches
from supervisor.xenstore import probe
from supervisor.xenstore.paths import backend_path, check_frontend
from supervisor.xenstore.snapshot import read_backend

_log = logging.getLogger("xenbackd.scanner")

PARALLEL: Final = 16
"""Devices taken up at one time: enough to keep xenstored busy, few enough to answer others."""


class Intake:
    """`handlers` are those of the enabled types, as they are at any moment."""

    def __init__(
        self,
        around: DeviceSurroundings,
        registry: Registry[Device],
        handlers: Mapping[str, DeviceType],
        watches: Watches,
        *,
        spawn: Callable[[Coroutine[None, None, None]], None],
        check_domains: Callable[[], None],
    ) -> None:
        """`spawn` runs a task in the background; `check_domains` looks which domains are gone."""
        self._around = around
        self._registry = registry
        self._handlers = handlers
        self._watches = watches
        self._spawn = spawn
        self._check_domains = check_domains
        self._queue: dict[DeviceId, None] = {}
        self._busy: set[DeviceId] = set()
        self._told: dict[DeviceId, str] = {}
        """What was reported of devices that could not be taken up."""
        self.releases = 0
        """How often a domain was reported gone."""

    def look(self, id_: DeviceId) -> None:
        """Take the device up if there is one to take up; a known one is left alone."""
        wanted = id_.type in self._handlers or id_ in self._around.orphans
        if wanted and id_ not in self._registry:
            self._queue[id_] = None
            self._pump()

    def close(self) -> None:
        """Stop taking devices up."""
        self._queue.clear()

    def _pump(self) -> None:
        for id_ in list(self._queue):
            if len(self._busy) >= PARALLEL:
                return
            if id_ not in self._busy:
                del self._queue[id_]
                self._busy.add(id_)
                self._spawn(self._take_up(id_))

    async def _take_up(self, id_: DeviceId) -> None:
        try:
            await self._try_take_up(id_)
        except ConnectionLostError as error:
            _log.debug("%s", error)  # everything is scanned again after the reconnection
        except BlamedError as error:
            self._end_orphan(id_)
            await self._refuse(id_, error.blame, str(error))
        except t.WrongInitialStateError as error:
            self._end_orphan(id_)
            await self._refuse(id_, Blame.OPERATOR, f"set-up: {id_}: node state: {error}")
        finally:
            self._busy.discard(id_)
            device = self._registry.get(id_)
            if device is not None and self._queue.pop(id_, "absent") is None:
                device.backend_event(None)
            self._pump()

    async def _try_take_up(self, id_: DeviceId) -> None:
        around = self._around
        orphan = around.orphans.get(id_)
        if id_ in self._registry or not (orphan or id_.type in self._handlers):
            return
        # Before the domain is asked for: it may go while the rest is read.
        releases = self.releases
        seen, introduced = await asyncio.gather(
            probe.backend(around.store, backend_path(around.own_path, id_)),
            probe.introduced(around.store, id_.domid),
        )
        if not seen.there or not introduced:
            self._end_orphan(id_)
            await self._forgive(id_)
            return
        nodes = await self._deciding_nodes(id_, known=orphan is not None)
        if orphan is None and self._is_not_ours(id_, nodes):
            await self._forgive(id_)
            return
        if seen.frontend is None:
            raise ConfigError(f"set-up: {id_}: node frontend: absent")
        frontend_path = check_frontend(id_, seen.frontend)
        if orphan is None:
            self._check_room(id_)
        device = make_device(id_, frontend_path, around, self._handlers, orphan, nodes)
        self._registry.add(device)
        taken_up = False
        try:
            await self._watches.device(id_, frontend_path)
            untrusted_state = await probe.frontend_state(around.store, frontend_path)
            if orphan is None and id_.type not in self._handlers:
                return  # switched off meanwhile
            device.feed(t.TakeUp(seen.state, untrusted_state, seen.online))
            taken_up = True
        finally:
            if not taken_up:
                self._registry.remove(id_)
                await device.close()
                await self._watches.drop(id_, frontend_path)
        if orphan is not None:
            del around.orphans[id_]
            device.adopt(orphan)
            device.feed(t.TypeEnabled(id_.type in self._handlers))
        await self._forgive(id_)
        device.log.info("taken up: backend %s, frontend %s", seen.state, untrusted_state)
        # What changed since the first read found no device to tell.
        device.backend_event(None)
        if releases != self.releases:
            self._check_domains()

    async def _deciding_nodes(self, id_: DeviceId, *, known: bool) -> Nodes:
        """The backend directory, for a type that decides by it; empty for all others.

        A device that is `known` was accepted by an earlier supervisor.
        """
        handler = self._handlers.get(id_.type)
        accepts = None if handler is None or known else handler.accepts
        if handler is None or (accepts is None and handler.traits_of is None):
            return {}
        return await read_backend(self._around.store, backend_path(self._around.own_path, id_))

    def _is_not_ours(self, id_: DeviceId, nodes: Nodes) -> bool:
        """Whether the type leaves this device to another server of the same directory."""
        handler = self._handlers.get(id_.type)
        if handler is None or handler.accepts is None:
            return False
        try:
            accepted = handler.accepts(nodes)
        except Exception as error:
            # Code of another distribution may raise anything; to the operator it is one thing.
            raise ConfigError(f"set-up: {id_}: type {handler.name}: accepts: {error!r}") from error
        if not accepted:
            _log.debug("%s: not for type %s", id_, handler.name)
        return not accepted

    def _check_room(self, id_: DeviceId) -> None:
        limit = self._around.config.limits.devices_per_domain
        if len(self._registry.of_domain(id_.domid)) >= limit:
            raise ConfigError(
                f"set-up: {id_}: domain {id_.domid} has {limit} devices: more than"
                " limits.devices_per_domain allows"
            )

    def _end_orphan(self, id_: DeviceId) -> None:
        """There is no device to serve: a worker that was left for it is ended in order."""
        if (orphan := self._around.orphans.pop(id_, None)) is None:
            return
        path = orphan.record.frontend_path
        try:
            device = make_device(id_, path, self._around, self._handlers, orphan)
        except ConfigError as error:
            # It ends by itself after its orphan_grace, or is killed for a successor (its lock).
            _log.error("worker: %s: left alone: %s", id_, error)
            close_orphan(orphan)
            return
        self._registry.add(device)
        device.feed(t.TakeUp(XenbusState.CLOSED, XenbusState.UNKNOWN, online=False))
        device.adopt(orphan)
        device.gone()

    async def _refuse(self, id_: DeviceId, blame: Blame, text: str) -> None:
        if self._told.get(id_) == text:
            return
        self._told[id_] = text
        _log.error("%s", text)
        self._around.events.add("set-up", str(id_), text)
        handler = self._handlers.get(id_.type)
        hotplug = handler is None or handler.traits.hotplug == "ours"
        try:
            await self._around.publisher.write_error(id_, None, blame, text, hotplug=hotplug)
        except HostError as error:
            _log.debug("%s", error)

    async def _forgive(self, id_: DeviceId) -> None:
        """The device is taken up, or gone: what was reported of it is over."""
        if self._told.pop(id_, None) is not None:
            try:
                await self._around.publisher.clear_error(id_)
            except HostError as error:
                _log.debug("%s", error)
