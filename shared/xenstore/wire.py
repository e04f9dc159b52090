# SPDX-License-Identifier: MIT
"""Packets of the xenstore protocol: operations, header, permissions.

Source: xen/include/public/io/xs_wire.h (`struct xsd_sockmsg`: type, req_id, tx_id, len; 32 bits
each, in the byte order of the machine) and docs/misc/xenstore.txt (payloads).

Built on the packet of pyxs, with one change: pyxs refuses newer operations (RESET_WATCHES,
DIRECTORY_PART) and unknown ones, which the embedded server must be able to read. No I/O here; the
clients and the embedded server use this module.
"""

from __future__ import annotations

import enum
import errno
import re
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple, Self

from pyxs._internal import Packet as PyxsPacket

from shared.limits import XENSTORE_PAYLOAD_MAX
from shared.xenstore.errors import TooBigError, WireError, error_for

HEADER: Final = struct.Struct("=IIII")
REQUEST_ID_MAX: Final = 0xFFFFFFFF
ABSOLUTE_PATH_MAX: Final = 3072
"""Bytes of an absolute path (XENSTORE_ABS_PATH_MAX)."""
RELATIVE_PATH_MAX: Final = 2048
"""Bytes of a path relative to a domain's directory (XENSTORE_REL_PATH_MAX)."""


class Op(enum.IntEnum):
    """`enum xsd_sockmsg_type`."""

    CONTROL = 0
    DIRECTORY = 1
    READ = 2
    GET_PERMS = 3
    WATCH = 4
    UNWATCH = 5
    TRANSACTION_START = 6
    TRANSACTION_END = 7
    INTRODUCE = 8
    RELEASE = 9
    GET_DOMAIN_PATH = 10
    WRITE = 11
    MKDIR = 12
    RM = 13
    SET_PERMS = 14
    WATCH_EVENT = 15
    ERROR = 16
    IS_DOMAIN_INTRODUCED = 17
    RESUME = 18
    SET_TARGET = 19
    RESET_WATCHES = 21
    DIRECTORY_PART = 22

    @property
    def label(self) -> str:
        """The name for error messages and logs: `get perms`."""
        return self.name.lower().replace("_", " ")


class Packet(PyxsPacket):  # type: ignore[misc]
    """One message: `op`, `rq_id`, `tx_id`, `size`, `payload` (bytes), any operation number."""

    __slots__ = ()

    op: int
    rq_id: int
    tx_id: int
    size: int
    payload: bytes

    def __new__(cls, op: int, payload: bytes, rq_id: int, tx_id: int = 0) -> Self:
        """Make a packet.

        Raises:
            TooBigError: the payload is longer than 4096 bytes.
        """
        if len(payload) > XENSTORE_PAYLOAD_MAX:
            raise TooBigError(operation_name(op), subject_of(payload), "E2BIG")
        return tuple.__new__(cls, (op, rq_id, tx_id, len(payload), payload))

    def encode(self) -> bytes:
        """The bytes on the wire: header and payload, to be written in one call."""
        return HEADER.pack(self.op, self.rq_id, self.tx_id, self.size) + self.payload


class PacketReader:
    """Cuts a stream into packets. Keeps less than one packet."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, untrusted_data: bytes) -> list[Packet]:
        """Add a piece of the stream; return the packets that are now complete.

        Raises:
            WireError: a header announces more than 4096 bytes of payload.
        """
        data = self._rest + untrusted_data if self._rest else untrusted_data
        packets: list[Packet] = []
        offset, end = 0, len(data)
        while end - offset >= HEADER.size:
            op, rq_id, tx_id, size = HEADER.unpack_from(data, offset)
            if size > XENSTORE_PAYLOAD_MAX:
                raise WireError(f"xenstore packet: operation {op}: {size} bytes announced")
            start = offset + HEADER.size
            stop = start + size
            if stop > end:
                break
            # Not Packet(...): this is the hot path, and the size was checked above.
            packets.append(tuple.__new__(Packet, (op, rq_id, tx_id, size, data[start:stop])))
            offset = stop
        self._rest = data[offset:]
        return packets


_PERMISSION = re.compile(rb"([nrwb])(0|[1-9][0-9]{0,4})")


class Perm(NamedTuple):
    """One entry of a node's permissions: `n` none, `r` read, `w` write, `b` both, and a domain.

    The first entry of a node names its owner; its letter says what all other domains may do.
    """

    access: str
    domid: int

    def __str__(self) -> str:
        return f"{self.access}{self.domid}"

    @classmethod
    def parse(cls, untrusted_text: bytes) -> Perm:
        """Read `r5`.

        Raises:
            ValueError: the text is not a permission.
        """
        match = _PERMISSION.fullmatch(untrusted_text)
        if match is None or int(match[2]) > 0xFFFF:
            raise ValueError(f"no xenstore permission: {untrusted_text!r}")
        return cls(match[1].decode(), int(match[2]))


class WatchEvent(NamedTuple):
    """Something changed at or below `path`, seen by the watch with `token`."""

    path: str
    token: str


def encode_perms(perms: Iterable[Perm]) -> bytes:
    """Payload of the permissions: each entry and a NUL."""
    return b"".join(str(perm).encode() + b"\0" for perm in perms)


def split_strings(payload: bytes) -> list[bytes]:
    """The NUL-terminated strings of a payload; a last one without a NUL counts as well."""
    parts = payload.split(b"\0")
    if not parts[-1]:
        parts.pop()
    return parts


def join_strings(operation: Op, *arguments: str | bytes) -> bytes:
    """Arguments of a request, each with its NUL.

    Raises:
        InvalidRequestError: an argument contains a NUL or is not ASCII; xenstored would
            misread it.
    """
    encoded = []
    for argument in arguments:
        try:
            data = argument.encode("ascii") if isinstance(argument, str) else argument
        except UnicodeEncodeError:
            raise error_for(operation.label, repr(argument), "EINVAL") from None
        if b"\0" in data:
            raise error_for(operation.label, repr(argument), "EINVAL")
        encoded.append(data + b"\0")
    return b"".join(encoded)


def errno_payload(number: int) -> bytes:
    """Payload of an error packet for an errno: its name and a NUL."""
    return errno.errorcode.get(number, "EIO").encode() + b"\0"


def operation_name(op: int) -> str:
    """The name of any operation number, for messages."""
    try:
        return Op(op).label
    except ValueError:
        return f"operation {op}"


def subject_of(payload: bytes) -> str:
    """What a request is about, for messages: its first argument."""
    return payload.split(b"\0", 1)[0].decode("ascii", "backslashreplace") or "-"
