# SPDX-License-Identifier: MIT
"""What one says to a guest's process: JSON lines over a UNIX stream socket, and raw data for dd.

One request at a time per connection; several connections are served side by side. `Io` may be
answered by several `ProgressReply` before its end, `ReadOut` by a `DataReply` that announces how
many raw bytes follow it, again and again until one announces none. After `WriteIn` is answered by
`Ready`, the client sends exactly `count` raw bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from worker.devices.block.guest.load import LoadConfig, LoadResult, Progress

LINE_MAX: Final = 65536
"""Bytes of one line."""
CHUNK: Final = 1 << 20
"""Bytes read from or written to the disk at once by dd."""


def socket_path(directory: Path, domid: int) -> Path:
    """Control socket of a guest of the embedded hypervisor at `directory`."""
    return directory / "guests" / f"{domid}.sock"


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag=True):
    """Base of the requests. A disk is named by its vdev (xvda) or its device number."""


class ListDisks(Request, frozen=True):
    """Answered by `DisksReply`."""


class Wait(Request, frozen=True):
    """Answered by `DisksReply` when there are `count` disks (None: however many), all Connected."""

    count: int | None
    timeout: float


class Io(Request, frozen=True):
    """Run a load; ends early when the connection is closed. Answered by `IoReply`."""

    disk: str
    config: LoadConfig
    progress: float = 0.0
    """Seconds between two `ProgressReply`; 0: none."""


class ReadOut(Request, frozen=True):
    """Send a disk's content; `count` 0 is to the end. Multiples of 512."""

    disk: str
    offset: int
    count: int


class WriteIn(Request, frozen=True):
    """Take content for a disk, then flush; answered by `Ready`, after the data by `Done`."""

    disk: str
    offset: int
    count: int


class Flush(Request, frozen=True):
    """Flush a disk; answered by `Done`."""

    disk: str


class Reboot(Request, frozen=True):
    """Close all disks and connect them anew (S16); answered by `Done` when all are Connected.

    Not `orderly`: without closing, as after a crash of the guest's kernel.
    """

    orderly: bool = True
    timeout: float = 20.0


class Shutdown(Request, frozen=True):
    """End the guest; `orderly` closes the disks first. Answered by `Done`, then the end."""

    orderly: bool = True
    timeout: float = 10.0


AnyRequest = ListDisks | Wait | Io | ReadOut | WriteIn | Flush | Reboot | Shutdown


class GuestDisk(msgspec.Struct, frozen=True, kw_only=True):
    """One disk as its guest sees it."""

    vdev: str
    devid: int
    state: str
    backend_state: str
    backend: str
    size: int
    """Bytes; 0 before it was first connected."""
    sector_size: int
    readonly: bool
    slots: int
    persistent: bool
    in_flight: int
    error: str
    """Why the last step failed, "" if it did not."""


class Reply(msgspec.Struct, frozen=True, tag_field="reply", tag=True):
    """Base of the replies."""


class DisksReply(Reply, frozen=True):
    name: str
    domid: int
    pid: int
    disks: list[GuestDisk]


class ProgressReply(Reply, frozen=True):
    progress: Progress


class IoReply(Reply, frozen=True):
    result: LoadResult


class DataReply(Reply, frozen=True):
    length: int


class Ready(Reply, frozen=True):
    pass


class Done(Reply, frozen=True):
    text: str = ""


class Refused(Reply, frozen=True):
    """The request failed; `exit_code` is what the command line ends with."""

    text: str
    exit_code: int


AnyReply = DisksReply | ProgressReply | IoReply | DataReply | Ready | Done | Refused

_encoder = msgspec.json.Encoder()
_requests = msgspec.json.Decoder(AnyRequest)
_replies = msgspec.json.Decoder(AnyReply)


def encode(message: Request | Reply) -> bytes:
    """One line."""
    return _encoder.encode(message) + b"\n"


def decode_request(line: bytes) -> AnyRequest:
    """Raises msgspec.MsgspecError."""
    request: AnyRequest = _requests.decode(line)
    return request


def decode_reply(line: bytes) -> AnyReply:
    """Raises msgspec.MsgspecError."""
    reply: AnyReply = _replies.decode(line)
    return reply
