# SPDX-License-Identifier: MIT
"""What a guest's process is asked and what it answers: JSON lines over a UNIX stream socket.

One request at a time per connection; several connections are served side by side. What concerns
the guest as a whole is here. What is asked of one device is up to its type: it travels as the body
of a `DeviceRequest`, which only the type decodes, by a closed schema. The answer is any number of
`DeviceReply`, followed by raw bytes in either direction where the type's messages say so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

LINE_MAX: Final = 65536
"""Bytes of one line."""


def socket_path(directory: Path, domid: int) -> Path:
    """Control socket of a guest of the embedded hypervisor at `directory`."""
    return directory / "guests" / f"{domid}.sock"


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag=True):
    """Base of the requests."""


class ListDevices(Request, frozen=True):
    """Answered by `GuestReply`."""


class Wait(Request, frozen=True):
    """Answered by `GuestReply` when all devices are connected and there are `count` of them.

    A `count` of None stands for any number.
    """

    count: int | None
    timeout: float


class DeviceRequest(Request, frozen=True):
    """Ask something of one device; answered as its type says."""

    kind: str
    """Of the frontend."""
    device: str
    """Its name in the guest or its device number."""
    body: msgspec.Raw


class Reboot(Request, frozen=True):
    """Close all devices and connect them again (S16); answered by `GuestReply`.

    Not `orderly`: without closing, as after a crash of the guest's kernel.
    """

    orderly: bool = True
    timeout: float = 20.0


class Shutdown(Request, frozen=True):
    """End the guest; `orderly` closes the devices first. Answered by `Done`, then the end."""

    orderly: bool = True
    timeout: float = 10.0


AnyRequest = ListDevices | Wait | DeviceRequest | Reboot | Shutdown


class GuestDevice(msgspec.Struct, frozen=True, kw_only=True):
    """One device as its guest sees it."""

    kind: str
    name: str
    devid: int
    state: str
    backend_state: str
    backend: str
    connected: bool
    error: str
    """Why the last step failed, "" if it did not."""
    details: dict[str, Any]
    """What its type says of it."""


class Reply(msgspec.Struct, frozen=True, tag_field="reply", tag=True):
    """Base of the replies."""


class GuestReply(Reply, frozen=True):
    """The guest and its devices."""

    name: str
    domid: int
    pid: int
    devices: list[GuestDevice]


class DeviceReply(Reply, frozen=True):
    """One answer of a device, in its type's schema."""

    body: msgspec.Raw


class Done(Reply, frozen=True):
    """It is done."""

    text: str = ""


class Refused(Reply, frozen=True):
    """The request failed; `exit_code` is what the command line ends with."""

    text: str
    exit_code: int


AnyReply = GuestReply | DeviceReply | Done | Refused

_encoder = msgspec.json.Encoder()
_requests = msgspec.json.Decoder(AnyRequest)
_replies = msgspec.json.Decoder(AnyReply)


def encode(message: Request | Reply) -> bytes:
    """One line."""
    return _encoder.encode(message) + b"\n"


def wrap(body: msgspec.Struct) -> msgspec.Raw:
    """A type's own message, as the body of a `DeviceRequest` or `DeviceReply`."""
    return msgspec.Raw(_encoder.encode(body))


def decode_request(line: bytes) -> AnyRequest:
    """Raises msgspec.MsgspecError."""
    request: AnyRequest = _requests.decode(line)
    return request


def decode_reply(line: bytes) -> AnyReply:
    """Raises msgspec.MsgspecError."""
    reply: AnyReply = _replies.decode(line)
    return reply
