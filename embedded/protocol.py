# SPDX-License-Identifier: MIT
"""The embedded hypervisor's messages and memory layout: mirror of native/protocol.h.

The comments there say what each operation takes and returns. A test compares sizes, offsets and
numbers of both. Does no I/O.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final

from shared.hypervisor.interface import PAGE_SIZE as PAGE_SIZE  # protocol.h has it too

ANY_DOMID: Final = 0x7FF4
MAP_MAX: Final = 4096
TEXT_MAX: Final = 131072
PORTS_MAX: Final = 131072
GUEST_PORTS_MAX: Final = 4096
"""Ports of a guest: the 2-level event-channel ABI of a 64-bit domain."""

MAGIC: Final = 0x6D656D64626E6578
GRANT_FRAME: Final = 1
GRANT_ENTRIES: Final = 16384
FIRST_FRAME: Final = 33
FIRST_REF: Final = 8
DEFAULT_PAGES: Final = 16384
PAGES_MAX: Final = 1 << 22
"""16 GiB; memory that is not touched costs nothing."""
NAME_MAX: Final = 64

HEADER: Final = struct.Struct("=QIIII")
"""magic, alive, pages, grant entries, domid."""
GRANT_ENTRY: Final = struct.Struct("=HHI")
"""flags, domid, frame."""
REQUEST: Final = struct.Struct("=HHII")
REPLY: Final = struct.Struct("=iIIIQ")
MAP_RESULT: Final = struct.Struct("=Ii")
REQUEST_MAX: Final = REQUEST.size + 4 * MAP_MAX


class Op(enum.IntEnum):
    ALLOC_UNBOUND = 1
    BIND_INTERDOMAIN = 2
    CLOSE_PORT = 3
    RESTRICT = 4
    ATTACH = 5
    MAP = 6
    UNMAP = 7
    SET_MAX_GRANTS = 8
    CREATE_DOMAIN = 9
    DESTROY_DOMAIN = 10
    LIST_DOMAINS = 11
    STATS = 12
    RELEASE = 13


class GrantFlags(enum.IntFlag):
    """Flags of a grant entry (xen/include/public/grant_table.h, GTF_*)."""

    PERMIT_ACCESS = 1
    READONLY = 4
    READING = 8
    WRITING = 16


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the hypervisor got it; all of it is what the client claims."""

    op: int
    domid: int
    argument: int
    count: int
    payload: bytes

    @classmethod
    def parse(cls, untrusted_data: bytes) -> Request | None:
        """Split a message; None if it is too short to be one."""
        if len(untrusted_data) < REQUEST.size:
            return None
        op, domid, argument, count = REQUEST.unpack_from(untrusted_data)
        return cls(op, domid, argument, count, untrusted_data[REQUEST.size :])


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply with the descriptors that go with it (still owned by the hypervisor)."""

    error: int = 0
    value: int = 0
    count: int = 0
    serial: int = 0
    payload: bytes = b""
    descriptors: tuple[int, ...] = ()

    def pack(self) -> bytes:
        return REPLY.pack(self.error, self.value, self.count, 0, self.serial) + self.payload


def socket_path(directory: str, domid: int) -> str:
    """Where a handle of the domain is opened, below the hypervisor's directory."""
    return f"{directory}/hypervisor/domain/{domid}"
