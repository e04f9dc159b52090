# SPDX-License-Identifier: MIT
"""Finds devices, and tells each one what changed in its directories.

Per enabled type one watch on its backend directory for all domains (S18), per device one on its
frontend directory, and one each for domains that come and go. A watch is set before what it
covers is read, so nothing falls between; events are hints, what counts is what is then read.

Invariants:

- What an earlier supervisor left (`Services.orphans`) becomes a device, even if it is gone already
  or of a type that is off: its worker must have an owner.
- Devices are taken up at most `PARALLEL` at a time, each by one task; an event about a device that
  is being taken up makes it looked at once more.
- A domain that xenstored does not know (dead, or not yet introduced) has no devices: what still
  stands in its directories is for the toolstack to remove.
- What cannot be taken up is said once for each cause (log, event stream, error node) and tried
  again when anything in its directory changes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Final

from shared import lifecycle_types as t
from shared.device_id import DEVID_MAX, DOMID_FIRST_RESERVED, DeviceId
from shared.device_types import DeviceType, resolve
from shared.errors import Blame, BlamedError, ConfigError, HostError
from shared.xenbus import XenbusState
from shared.xenstore.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ConnectionLostError,
    NoEntryError,
)
from shared.xenstore.wire import WatchEvent
from supervisor.device.adoption import close_orphan, make_device
from supervisor.device.device import Device
from supervisor.device.registry import Registry
from supervisor.workers.surroundings import Services
from supervisor.xenstore import probe
from supervisor.xenstore.paths import (
    backend_path,
    check_frontend,
    node_below,
    number,
    parse_backend,
    type_path,
)

_log = logging.getLogger("xenbackd.scanner")

PARALLEL: Final = 16
"""Devices taken up at one time: enough to keep xenstored busy, few enough to answer others."""

RELEASE: Final = "@releaseDomain"
INTRODUCE: Final = "@introduceDomain"


class Scanner:
    """Owner of all watches."""

    def __init__(self, services: Services, registry: Registry[Device]) -> None:
        self._services = services
        self._registry = registry
        self._handlers: dict[str, DeviceType] = {}
        self._watched: set[str] = set()
        self._queue: dict[DeviceId, None] = {}
        self._busy: set[DeviceId] = set()
        self._told: dict[DeviceId, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._releases = 0
        """How often a domain was said to be gone."""

    # --- start and stop

    async def open(self) -> None:
        """Set the watches and scan all enabled types.

        Raises:
            HostError: a watch on a type cannot be set (S18).
            ConfigError: a handler is not installed.
        """
        for special in (RELEASE, INTRODUCE):
            try:
                await self._watch(special, special)
            except ConnectionLostError:
                raise
            except HostError as error:
                # Outside dom0 it needs a permission; the backend directories tell, only later.
                _log.warning("watch on %s: %s: dead domains are noticed later", special, error)
        for type_, config in self._services.config.types.items():
            if config.enabled:
                await self.enable(type_)
        await self._look_at_orphans()

    async def _look_at_orphans(self) -> None:
        for id_ in list(self._services.orphans):
            await self._watch_type(id_.type)
            self.look(id_)

    async def enable(self, type_: str) -> None:
        """Serve a type from now on: watch, then take up what is there.

        Raises:
            HostError, ConfigError: as `open`.
        """
        self._handlers[type_] = resolve(self._services.config.types[type_].handler)
        await self._watch_type(type_)
        for device in self._registry.of_type(type_):
            device.feed(t.TypeEnabled(True))
        await self.scan(type_)

    async def _watch_type(self, type_: str) -> None:
        if type_ not in self._watched:
            path = type_path(self._services.own_path, type_)
            await self._watch(path, f"type:{type_}")
            self._watched.add(type_)

    def disable(self, type_: str) -> None:
        """Close a type's devices in order; its watch stays, for it tells when they are gone."""
        self._handlers.pop(type_, None)
        for device in self._registry.of_type(type_):
            device.feed(t.TypeEnabled(False))

    async def rescan(self) -> None:
        """After xenstored came back: what changed meanwhile was told to nobody."""
        for device in self._registry:
            device.xenstore_back()
        await self._check_domains()
        for type_ in list(self._handlers):
            await self.scan(type_)
        await self._look_at_orphans()

    async def close(self) -> None:
        """Take nothing up any more. Watches end with the connection."""
        self._queue.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- watch events

    def dispatch(self, event: WatchEvent) -> None:
        """Hand a watch event to whom it concerns; never waits."""
        kind, _, name = event.token.partition(":")
        if kind == "device":
            self._frontend_changed(DeviceId.parse(name), event.path)
        elif kind == "type":
            self._backend_changed(name, event.path)
        elif event.token in (RELEASE, INTRODUCE):
            self._spawn(self._domains_changed(event.token))

    def _frontend_changed(self, id_: DeviceId, path: str) -> None:
        device = self._registry.get(id_)
        untrusted_node = None if device is None else node_below(device.frontend_path, path)
        if device is not None and untrusted_node is not None:
            device.frontend_event(untrusted_node)

    def _backend_changed(self, type_: str, path: str) -> None:
        if (where := parse_backend(type_path(self._services.own_path, type_), path)) is None:
            return
        if where.domid is None or where.devid is None:
            # A level above the devices: something was made or removed as a whole.
            for device in self._registry.of_type(type_):
                if where.domid in (None, device.id.domid):
                    device.backend_event(None)
            if where.domid is None:
                self._spawn(self.scan(type_))
            else:
                self._spawn(self._scan_domain(type_, where.domid))
            return
        id_ = DeviceId(type_, where.domid, where.devid)
        found = self._registry.get(id_)
        if found is None:
            self.look(id_)
        else:
            found.backend_event(where.node)

    async def _domains_changed(self, what: str) -> None:
        if what == RELEASE:
            self._releases += 1
            await self._check_domains()
        else:
            for type_ in list(self._handlers):
                await self.scan(type_)

    async def _check_domains(self) -> None:
        """A domain went, nobody says which (S8)."""
        for domid in self._registry.domains():
            if not await self._introduced(domid):
                for device in self._registry.of_domain(domid):
                    device.log.info("domain %d is gone", domid)
                    device.gone()

    async def _introduced(self, domid: int) -> bool:
        """Whether a domain is there; only xenstored's own domain and dom0 are told."""
        try:
            return await self._services.store.is_domain_introduced(domid)
        except AccessDeniedError:
            # A driver domain goes by the directories, which the toolstack closes.
            return True

    # --- scan (S18)

    async def scan(self, type_: str) -> None:
        """List a type's backend directory and look at everything in it."""
        root = type_path(self._services.own_path, type_)
        for domid in await self._numbers(root, DOMID_FIRST_RESERVED):
            await self._scan_domain(type_, domid)

    async def _scan_domain(self, type_: str, domid: int) -> None:
        path = f"{type_path(self._services.own_path, type_)}/{domid}"
        for devid in await self._numbers(path, DEVID_MAX + 1):
            self.look(DeviceId(type_, domid, devid))

    async def _numbers(self, path: str, limit: int) -> list[int]:
        try:
            names = await self._services.store.directory(path)
        except NoEntryError:
            return []
        return [found for name in names if (found := number(name, limit)) is not None]

    # --- taking up (S11)

    def look(self, id_: DeviceId) -> None:
        """Take the device up if there is one to take up; what is known already is left alone."""
        wanted = id_.type in self._handlers or id_ in self._services.orphans
        if wanted and id_ not in self._registry:
            self._queue[id_] = None
            self._pump()

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
        services = self._services
        path = backend_path(services.own_path, id_)
        orphan = services.orphans.get(id_)
        if id_ in self._registry or not (orphan or id_.type in self._handlers):
            return
        seen, introduced = await asyncio.gather(
            probe.backend(services.store, path),
            self._introduced(id_.domid),
        )
        if not seen.there or not introduced:
            self._end_orphan(id_)
            await self._forgive(id_)
            return
        if seen.frontend is None:
            raise ConfigError(f"set-up: {id_}: node frontend: absent")
        frontend_path = check_frontend(id_, seen.frontend)
        limit = services.config.limits.devices_per_domain
        if orphan is None and len(self._registry.of_domain(id_.domid)) >= limit:
            raise ConfigError(
                f"set-up: {id_}: domain {id_.domid} has {limit} devices: more than"
                " limits.devices_per_domain allows"
            )
        device = make_device(id_, frontend_path, services, self._handlers, orphan)
        self._registry.add(device)
        releases = self._releases
        taken_up = False
        try:
            await self._watch(frontend_path, f"device:{id_}", id_.domid)
            untrusted_state = await probe.frontend_state(services.store, frontend_path)
            if orphan is None and id_.type not in self._handlers:
                return  # switched off meanwhile
            device.feed(t.TakeUp(seen.state, untrusted_state, seen.online))
            taken_up = True
        finally:
            if not taken_up:
                self._registry.remove(id_)
                await device.close()
                await self._unwatch(frontend_path, id_)
        if orphan is not None:
            del services.orphans[id_]
            device.adopt(orphan)
            device.feed(t.TypeEnabled(id_.type in self._handlers))
        await self._forgive(id_)
        device.log.info("taken up: backend %s, frontend %s", seen.state, untrusted_state)
        # What happened since the first read found nobody who would hear of it.
        device.backend_event(None)
        if releases != self._releases:
            self._spawn(self._check_domains())

    def _end_orphan(self, id_: DeviceId) -> None:
        """There is no device to serve: a worker that was left for it is ended in order."""
        if (orphan := self._services.orphans.pop(id_, None)) is None:
            return
        path, services = orphan.record.frontend_path, self._services
        try:
            device = make_device(id_, path, services, self._handlers, orphan)
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
        self._services.events.add("set-up", str(id_), text)
        try:
            await self._services.publisher.write_error(id_, None, blame, text, hotplug=True)
        except HostError as error:
            _log.debug("%s", error)

    async def _forgive(self, id_: DeviceId) -> None:
        """What it was refused for is over, or it is gone: so is what was said of it."""
        if self._told.pop(id_, None) is not None:
            try:
                await self._services.publisher.clear_error(id_)
            except HostError as error:
                _log.debug("%s", error)

    def forget(self, id_: DeviceId) -> None:
        """A device is over: drop it, and look whether another one stands in its place (S8)."""
        device = self._registry.remove(id_)
        if device is not None:
            self._services.records.remove(id_)
            device.log.info("forgotten")
            self._services.events.add("forgotten", str(id_), "")
            self._spawn(self._clean_up(device))

    async def _clean_up(self, device: Device) -> None:
        await device.close()
        await self._unwatch(device.frontend_path, device.id)
        try:
            await self._services.publisher.clear_error(device.id)
        except HostError as error:
            _log.debug("%s", error)
        self.look(device.id)

    # --- helpers

    async def _watch(self, path: str, token: str, domain: int | None = None) -> None:
        fair: int | Callable[[str], int] = domain if domain is not None else 0
        if token.startswith("type:"):
            root = path

            def domain_of(changed: str) -> int:
                where = parse_backend(root, changed)
                return 0 if where is None or where.domid is None else where.domid

            fair = domain_of
        try:
            await self._services.store.watch(path, token, fair)
        except AlreadyExistsError:
            return

    async def _unwatch(self, path: str, id_: DeviceId) -> None:
        try:
            await self._services.store.unwatch(path, f"device:{id_}")
        except HostError as error:
            _log.debug("%s", error)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._guard(work))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def _guard(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except ConnectionLostError as error:
            _log.debug("%s", error)
        except BlamedError as error:
            _log.log(error.log_level, "%s", error)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("bug in the supervisor; please report it", exc_info=error)
