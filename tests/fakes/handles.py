# SPDX-License-Identifier: MIT
"""`Handles` of a hypervisor in one process, for devices without a worker around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.device_id import DeviceId
from shared.errors import GuestFault
from shared.hypervisor.interface import PAGE_SIZE, EventChannels, GrantTable, Port
from shared.hypervisor.native._xen import ffi
from shared.logs import DeviceLogger
from tests.fakes.hv import PORT, FakeHypervisor
from worker.device import DeviceContext


@dataclass
class FakeChannels:
    """Event channels with one port that can be bound: remote 5 becomes `PORT`."""

    hypervisor: FakeHypervisor
    bound: list[Port] = field(default_factory=list)
    unbound: list[Port] = field(default_factory=list)

    def fileno(self) -> int:
        return self.hypervisor.event

    def bind_interdomain(self, domid: int, remote_port: int) -> Port:
        if remote_port != 5:
            raise GuestFault(f"bind event channel: port {remote_port} of domain {domid}: none")
        self.bound.append(Port(PORT))
        return Port(PORT)

    def unbind(self, port: Port) -> None:
        self.unbound.append(port)

    def notify(self, port: Port) -> None:
        self.hypervisor.notified.append(port)

    def pending(self) -> Port | None:
        port = self.hypervisor._pending(None)
        return Port(port) if port >= 0 else None

    def unmask(self, port: Port) -> None:
        self.hypervisor.unmasked.append(port)

    def restrict(self, domid: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


class FakeMapping:
    """Pages that are counted while they are mapped."""

    def __init__(self, hypervisor: FakeHypervisor, refs: Sequence[int]) -> None:
        self._hypervisor = hypervisor
        self._count = len(refs)
        names, statuses = ffi.new("uint32_t[]", list(refs)), ffi.new("int16_t[]", len(refs))
        area = hypervisor._map(None, 3, names, len(refs), 1, statuses)
        if area == ffi.NULL:
            raise GuestFault(f"map grants: {list(refs)}: not granted")
        self.address = int(ffi.cast("uintptr_t", area))

    @property
    def buffer(self) -> memoryview:
        pages = ffi.buffer(ffi.cast("char *", self.address), self._count * PAGE_SIZE)
        return memoryview(pages)

    def unmap(self) -> None:
        assert self._hypervisor._unmap(None, ffi.cast("void *", self.address), self._count) == 0


@dataclass
class FakeGrantTable:
    """Maps what `FakeHypervisor.grant` granted."""

    hypervisor: FakeHypervisor

    def map(self, domid: int, refs: Sequence[int], *, writable: bool) -> FakeMapping:
        return FakeMapping(self.hypervisor, refs)

    def copy_from(self, domid: int, ref: int, offset: int, length: int) -> bytes:
        raise NotImplementedError

    def copy_to(self, domid: int, ref: int, offset: int, data: bytes) -> None:
        raise NotImplementedError

    def set_max_grants(self, count: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


class FakeHandles:
    """Both handles over one `FakeHypervisor`."""

    def __init__(self, hypervisor: FakeHypervisor) -> None:
        self.hypervisor = hypervisor
        self.channels = FakeChannels(hypervisor)
        self.event_channels: EventChannels = self.channels
        self.grant_table: GrantTable | None = FakeGrantTable(hypervisor)

    @property
    def native_ops(self) -> int:
        return int(ffi.cast("uintptr_t", self.hypervisor.ops))

    def close(self) -> None:
        pass


def make_context(handles: FakeHandles, options: Any, kind: str = "toy") -> DeviceContext:
    """What device 51712 of domain 3 is given."""
    device = DeviceId(kind, 3, 51712)
    return DeviceContext(device, options, handles, DeviceLogger(device), lambda _n, _r: None)
