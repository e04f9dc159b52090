# SPDX-License-Identifier: MIT
"""The hypervisor interface of a worker, in the terms of libxenevtchn and libxengnttab.

It has two implementations: the embedded hypervisor and real Xen. A worker cannot tell which one it
has. The data planes in C reach the same handles through `struct hv_ops` (shared/native/hv_ops.h);
`Handles.native_ops` is its address.

All calls are for one process and one thread. Handles must be opened after the fork, because the
kernel ties mappings and ports to the process that opened the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NewType, Protocol

Port = NewType("Port", int)
"""A local event-channel port of a handle."""

GrantRef = NewType("GrantRef", int)

PAGE_SIZE: Final = 4096

REFERENCE_MAX: Final = 0xFFFFFFFF
"""Largest grant reference (xen/include/public/grant_table.h)."""
PORT_MAX: Final = 0x7FFFFFFF
"""Largest number of a port that the handles take: an int."""


class EventChannels(Protocol):
    """One event-channel handle, like one open /dev/xen/evtchn: its ports and its descriptor."""

    def fileno(self) -> int:
        """Descriptor that is readable while a port is pending and not masked."""

    def bind_interdomain(self, domid: int, remote_port: int) -> Port:
        """Bind a local port to a port that the domain left unbound for us; it starts pending.

        Raises:
            GuestFault: the port does not exist, or it is not for this domain.
            HostError: the handle is broken.
        """

    def unbind(self, port: Port) -> None:
        """Close the local port; the peer's end becomes unbound and may be bound again."""

    def notify(self, port: Port) -> None:
        """Send an event to the peer; it is lost if the peer's end is not bound."""

    def pending(self) -> Port | None:
        """Take one pending port, which is then masked until `unmask`; None if there is none."""

    def unmask(self, port: Port) -> None:
        """Let the port signal again; events that came while it was masked signal at once."""

    def restrict(self, domid: int) -> None:
        """Allow no domain but this one from now on, for ever."""

    def close(self) -> None:
        """Close all ports and the handle. Idempotent."""


class Mapping(Protocol):
    """Granted pages, mapped in one contiguous area."""

    @property
    def address(self) -> int:
        """Address of the first page in this process."""

    @property
    def buffer(self) -> memoryview:
        """The area as bytes. It is guest memory: every byte may change at any time."""

    def unmap(self) -> None:
        """Give the pages back. Idempotent; `buffer` must not be used afterwards."""


class GrantTable(Protocol):
    """One grant-table handle, like one open /dev/xen/gntdev."""

    def map(self, domid: int, refs: Sequence[int], *, writable: bool) -> Mapping:
        """Map all the pages, or none.

        Raises:
            GuestFault: a reference is not granted to this domain in that way; the text names it.
            HostError: out of grants or memory.
        """

    def copy_from(self, domid: int, ref: int, offset: int, length: int) -> bytes:
        """Copy bytes out of one granted page; raises GuestFault."""

    def copy_to(self, domid: int, ref: int, offset: int, data: bytes) -> None:
        """Copy bytes into one granted page; raises GuestFault."""

    def set_max_grants(self, count: int) -> None:
        """Limit the pages that this handle may map at once; call it before the first map."""

    def close(self) -> None:
        """Unmap everything and close. Idempotent."""


class Handles(Protocol):
    """The handle set of one worker."""

    event_channels: EventChannels
    grant_table: GrantTable | None

    @property
    def native_ops(self) -> int:
        """Address of a `struct hv_ops` over these handles, valid until `close`."""

    def close(self) -> None:
        """Close grant table and event channels. Idempotent."""


class Hypervisor(Protocol):
    """The source of handles."""

    name: str
    """"xen" or "embedded"."""

    def open_handles(self, *, grants: bool) -> Handles:
        """Open an event-channel handle and, if asked for, a grant-table handle; both or none.

        Raises:
            HostError: a handle cannot be opened; the text says which and why.
        """
