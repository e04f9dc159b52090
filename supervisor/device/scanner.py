# SPDX-License-Identifier: MIT
"""Finds devices, and tells each one what changed in its directories.

A watch is set before the nodes it covers are read, so nothing is missed in between. Events are
only hints; what counts is what is then read. Directories are scanned when their type is switched
on, and when watch events may have been lost.
"""

from __future__ import annotations

import logging
from collections.abc import Coroutine

from shared import lifecycle_types as t
from shared.device_id import DEVID_MAX, DOMID_FIRST_RESERVED, DeviceId
from shared.device_types import DeviceType, resolve
from shared.errors import BlamedError, HostError
from shared.xenstore.errors import ConnectionLostError, NoEntryError
from shared.xenstore.wire import WatchEvent
from supervisor.device.device import Device
from supervisor.device.intake import Intake
from supervisor.device.registry import Registry
from supervisor.device.surroundings import DeviceSurroundings
from supervisor.device.watches import DEVICE, INTRODUCE, RELEASE, TYPE, Watches
from supervisor.tasks import Tasks
from supervisor.xenstore import probe
from supervisor.xenstore.paths import node_below, number, parse_backend, type_path

_log = logging.getLogger("xenbackd.scanner")


class Scanner:
    """The only part that hears of watch events."""

    def __init__(self, around: DeviceSurroundings, registry: Registry[Device]) -> None:
        self._around = around
        self._registry = registry
        self._handlers: dict[str, DeviceType] = {}
        """Of the types that are enabled."""
        self._watches = Watches(around.store, around.own_path)
        self._tasks = Tasks(_report_bug)
        self._intake = Intake(
            around,
            registry,
            self._handlers,
            self._watches,
            spawn=self._spawn,
            check_domains=lambda: self._spawn(self._check_domains()),
        )

    # --- start and stop

    async def open(self) -> None:
        """Set the watches and scan all enabled types.

        Raises:
            HostError: a watch on a type cannot be set (S18).
            ConfigError: a handler is not installed.
        """
        await self._watches.domains()
        for type_, config in self._around.config.types.items():
            if config.enabled:
                await self.enable(type_)
        await self._look_at_orphans()

    async def _look_at_orphans(self) -> None:
        for id_ in list(self._around.orphans):
            await self._watches.type(id_.type)
            self._intake.look(id_)

    async def enable(self, type_: str) -> None:
        """Serve a type from now on: watch, then take up what is there.

        Raises:
            HostError, ConfigError: as `open`.
        """
        self._handlers[type_] = resolve(self._around.config.types[type_].handler)
        await self._watches.type(type_)
        for device in self._registry.of_type(type_):
            device.feed(t.TypeEnabled(True))
        await self.scan(type_)

    def disable(self, type_: str) -> None:
        """Close a type's devices in order; its watch stays, to tell when they are gone."""
        self._handlers.pop(type_, None)
        for device in self._registry.of_type(type_):
            device.feed(t.TypeEnabled(False))

    async def rescan(self) -> None:
        """After xenstored came back: changes in between were told to nobody."""
        for device in self._registry:
            device.xenstore_back()
        await self._check_domains()
        for type_ in list(self._handlers):
            await self.scan(type_)
        await self._look_at_orphans()

    async def close(self) -> None:
        """Stop looking for devices. Watches end with the connection."""
        self._intake.close()
        await self._tasks.close()

    # --- watch events

    def dispatch(self, event: WatchEvent) -> None:
        """Hand a watch event to the devices it concerns; never waits."""
        kind, _, name = event.token.partition(":")
        if kind == DEVICE:
            self._frontend_changed(DeviceId.parse(name), event.path)
        elif kind == TYPE:
            self._backend_changed(name, event.path)
        elif event.token == RELEASE:
            self._intake.releases += 1
            self._spawn(self._check_domains())
        elif event.token == INTRODUCE:
            self._spawn(self._scan_all())

    def _frontend_changed(self, id_: DeviceId, path: str) -> None:
        device = self._registry.get(id_)
        untrusted_node = None if device is None else node_below(device.frontend_path, path)
        if device is not None and untrusted_node is not None:
            device.frontend_event(untrusted_node)

    def _backend_changed(self, type_: str, path: str) -> None:
        if (where := parse_backend(type_path(self._around.own_path, type_), path)) is None:
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
            self._intake.look(id_)
        else:
            found.backend_event(where.node)

    async def _check_domains(self) -> None:
        """A domain is gone, and the event does not say which (S8)."""
        for domid in self._registry.domains():
            if not await probe.introduced(self._around.store, domid):
                for device in self._registry.of_domain(domid):
                    device.log.info("domain %d is gone", domid)
                    device.gone()

    # --- scan (S18)

    async def scan(self, type_: str) -> None:
        """List a type's backend directory and look at everything in it."""
        root = type_path(self._around.own_path, type_)
        for domid in await self._numbers(root, DOMID_FIRST_RESERVED):
            await self._scan_domain(type_, domid)

    async def _scan_all(self) -> None:
        for type_ in list(self._handlers):
            await self.scan(type_)

    async def _scan_domain(self, type_: str, domid: int) -> None:
        path = f"{type_path(self._around.own_path, type_)}/{domid}"
        for devid in await self._numbers(path, DEVID_MAX + 1):
            self._intake.look(DeviceId(type_, domid, devid))

    async def _numbers(self, path: str, limit: int) -> list[int]:
        try:
            names = await self._around.store.directory(path)
        except NoEntryError:
            return []
        return [found for name in names if (found := number(name, limit)) is not None]

    # --- the end of a device

    def forget(self, id_: DeviceId) -> None:
        """A device is over: drop it, and look whether another one has taken its place (S8)."""
        device = self._registry.remove(id_)
        if device is not None:
            self._around.records.remove(id_)
            device.log.info("forgotten")
            self._around.events.add("forgotten", str(id_), "")
            self._spawn(self._clean_up(device))

    async def _clean_up(self, device: Device) -> None:
        await device.close()
        await self._watches.drop(device.id, device.frontend_path)
        try:
            await self._around.publisher.clear_error(device.id)
        except HostError as error:
            _log.debug("%s", error)
        self._intake.look(device.id)

    # --- helpers

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        self._tasks.spawn(_guarded(work))


async def _guarded(work: Coroutine[None, None, None]) -> None:
    try:
        await work
    except ConnectionLostError as error:
        _log.debug("%s", error)
    except BlamedError as error:
        _log.log(error.log_level, "%s", error)


def _report_bug(error: BaseException) -> None:
    _log.error("bug in the supervisor; please report it", exc_info=error)
