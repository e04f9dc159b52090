# SPDX-License-Identifier: MIT
"""One event channel of a guest behind a handle of its own.

The domain's own handle (`Domain.fileno`) hands out the events of all its ports. A thread that
waits for one device wants that device's alone, so each frontend opens a handle, as it has its own
interrupt in a kernel.
"""

from __future__ import annotations

from typing import Any

from embedded.domain import Domain
from embedded.handles import EmbeddedEventChannels, EmbeddedHandle
from embedded.native._embedded import ffi, lib
from shared.hypervisor.interface import Port


class GuestChannel:
    """A port that the backend's domain may bind, and the handle it belongs to."""

    def __init__(self, domain: Domain, remote_domid: int) -> None:
        """Raises HostError: no handle or no port left."""
        handle = EmbeddedHandle(domain.directory, domain.domid)
        self.event_channels = EmbeddedEventChannels(handle)
        try:
            self.port: Port = self.event_channels.alloc_unbound(remote_domid)
        except BaseException:
            self.event_channels.close()
            raise
        self._ops: Any = ffi.new("struct hv_ops *")
        lib.embedded_fill_ops(self._ops, handle.native, ffi.NULL)

    @property
    def native_ops(self) -> int:
        """Address of a `struct hv_ops` over this handle; valid until `close`."""
        return int(ffi.cast("uintptr_t", self._ops))

    def close(self) -> None:
        """Close the port and the handle. Idempotent."""
        self.event_channels.close()
