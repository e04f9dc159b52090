# SPDX-License-Identifier: MIT
"""The devices of the supervisor, by name and by domain. No duplicates, ever (S5)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from shared.device_id import DeviceId
from shared.errors import BackendBug


class Named(Protocol):
    """What can be in the registry."""

    @property
    def id(self) -> DeviceId:
        """The name that it is found by."""


D = TypeVar("D", bound=Named)


class Registry(Generic[D]):
    """Devices keyed by `DeviceId`."""

    def __init__(self) -> None:
        self._devices: dict[DeviceId, D] = {}
        self._by_domain: dict[int, dict[DeviceId, D]] = {}

    def __len__(self) -> int:
        return len(self._devices)

    def __iter__(self) -> Iterator[D]:
        """All devices; the registry may change during the iteration."""
        return iter(list(self._devices.values()))

    def __contains__(self, device: DeviceId) -> bool:
        return device in self._devices

    def add(self, device: D) -> None:
        """Insert a device.

        Raises:
            BackendBug: there is one of that name.
        """
        if device.id in self._devices:
            raise BackendBug(f"registry: {device.id}: is there already")
        self._devices[device.id] = device
        self._by_domain.setdefault(device.id.domid, {})[device.id] = device

    def get(self, device: DeviceId) -> D | None:
        """The device of that name, None if there is none."""
        return self._devices.get(device)

    def of_domain(self, domid: int) -> list[D]:
        """All devices of a domain."""
        return list(self._by_domain.get(domid, {}).values())

    def of_type(self, type_: str) -> list[D]:
        """All devices of a type."""
        return [device for device in self._devices.values() if device.id.type == type_]

    def domains(self) -> list[int]:
        """Domains that have a device."""
        return list(self._by_domain)

    def remove(self, device: DeviceId) -> D | None:
        """Forget one device; None if there was none (S8)."""
        removed = self._devices.pop(device, None)
        if removed is not None:
            siblings = self._by_domain[device.domid]
            del siblings[device]
            if not siblings:
                del self._by_domain[device.domid]
        return removed
