# SPDX-License-Identifier: MIT
"""Replaces workers one after the other while their guests use the devices.

Each is a drained hand-over: the worker answers what is in flight, gives the ring back and ends, and
its successor takes up the live ring. At most `parallel` devices are between the two at one time.
The first failure stops it, because what made one worker fail would make the next one fail too.
Replacements that were begun are then waited for, and no other one is begun.

A device is left out if no worker of it is ready for a frontend or serves one: a device in back-off,
in quarantine or without a frontend has nothing to hand over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from shared.device_id import DeviceId
from shared.errors import ConfigError, HostError
from shared.lifecycle_types import WorkerPhase
from supervisor.device.device import Device
from supervisor.events import EventLog

_REPLACED: Final = frozenset({WorkerPhase.READY, WorkerPhase.SERVING})


class Rolling:
    """One run over some devices."""

    def __init__(self, devices: Iterable[Device], events: EventLog, parallel: int) -> None:
        if parallel < 1:
            raise ConfigError(f"rolling restart: {parallel} at a time: at least one")
        self._devices = [one for one in devices if one.lifecycle.worker in _REPLACED]
        self._events = events
        self._parallel = parallel
        self._failure = ""
        self._done = 0

    async def run(self) -> str:
        """Replace all; returns how many, in words.

        Raises:
            HostError: one failed; the text says which, why, and how many were replaced.
        """
        waiting = list(reversed(self._devices))

        async def work() -> None:
            while waiting and not self._failure:
                await self._replace(waiting.pop())

        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(self._parallel, len(waiting))):
                tasks.create_task(work())
        count = f"{self._done} of {len(self._devices)} workers replaced"
        if self._failure:
            text = f"rolling restart: {self._failure}; stopped, {count}"
            self._events.add("rolling", "", text)
            raise HostError(text)
        self._events.add("rolling", "", count)
        return count

    async def _replace(self, device: Device) -> None:
        link, before = device.link, device.lifecycle
        if before.worker not in _REPLACED:
            return  # its guest or its worker was quicker
        generation, failures = link.generation, link.succession.failures
        changed = asyncio.Event()
        device.listeners.add(changed.set)
        self._events.add("restart", str(device.id), "rolling")
        timeouts = link.timeouts
        # The end of one worker, Hello of the next, its answers to two orders.
        longest = link.drain + timeouts.hello + 2 * timeouts.hook
        link.succession.planned()
        device.renew_worker()
        try:
            async with asyncio.timeout(longest):
                while True:
                    now = device.lifecycle
                    if link.succession.failures != failures:
                        self._failed(device, device.reporter.text or "its worker failed")
                        return
                    served = link.generation > generation and now.worker is before.worker
                    # A guest that closes or reboots meanwhile does not wait for this worker.
                    if served or now.gone or now.backend is not before.backend:
                        self._done += 1
                        return
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            self._failed(device, f"not served again within {longest:g} s")
        finally:
            device.listeners.discard(changed.set)

    def _failed(self, device: Device, cause: str) -> None:
        self._failure = self._failure or f"{device.id}: {cause}"


def choose(devices: Iterable[Device], targets: Sequence[str]) -> list[Device]:
    """The devices that `targets` (types and device names) stand for, sorted; all if there are none.

    Raises:
        ConfigError: a target stands for nothing.
    """
    everything = sorted(devices, key=lambda device: device.id)
    if not targets:
        return everything
    chosen: set[DeviceId] = set()
    for target in targets:
        found = {one.id for one in everything if target in (one.id.type, str(one.id))}
        if not found:
            raise ConfigError(f"rolling restart: {target}: no device of that type or name")
        chosen |= found
    return [one for one in everything if one.id in chosen]
