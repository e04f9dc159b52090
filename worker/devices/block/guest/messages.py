# SPDX-License-Identifier: MIT
"""What is said to a disk of a guest, in the body of a `DeviceRequest`, and what it answers.

`Io` may be answered by several `ProgressReply` before its `IoReply`, `ReadOut` by a `DataReply`
that announces how many raw bytes follow it, again and again until one announces none. After
`WriteIn` is answered by `Ready`, the client sends exactly `count` raw bytes.
"""

from __future__ import annotations

from typing import Final

import msgspec

from worker.devices.block.guest.load import LoadConfig, LoadResult, Progress

CHUNK: Final = 1 << 20
"""Bytes read from or written to the disk at once by dd."""


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag=True):
    """Base of the requests."""


class Io(Request, frozen=True):
    """Run a load; ends early when the connection is closed. Answered by `IoReply`."""

    config: LoadConfig
    progress: float = 0.0
    """Seconds between two `ProgressReply`; 0: none."""


class ReadOut(Request, frozen=True):
    """Send the content; `count` 0 is to the end. Multiples of 512."""

    offset: int
    count: int


class WriteIn(Request, frozen=True):
    """Take content, then flush; answered by `Ready`, after the data by `Written`."""

    offset: int
    count: int


class Flush(Request, frozen=True):
    """Flush; answered by `Flushed`."""


AnyRequest = Io | ReadOut | WriteIn | Flush


class Reply(msgspec.Struct, frozen=True, tag_field="reply", tag=True):
    """Base of the replies."""


class ProgressReply(Reply, frozen=True):
    progress: Progress


class IoReply(Reply, frozen=True):
    result: LoadResult


class DataReply(Reply, frozen=True):
    length: int


class Ready(Reply, frozen=True):
    pass


class Written(Reply, frozen=True):
    count: int


class Flushed(Reply, frozen=True):
    pass


AnyReply = ProgressReply | IoReply | DataReply | Ready | Written | Flushed


class DiskDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What a guest says of a disk beyond its states (`GuestDevice.details`)."""

    vdev: str
    size: int
    """Bytes; 0 before it was first connected."""
    sector_size: int
    readonly: bool
    slots: int
    persistent: bool
    in_flight: int


decode_request: Final = msgspec.json.Decoder(AnyRequest).decode
"""Raises msgspec.MsgspecError."""
REPLIES: Final = msgspec.json.Decoder(AnyReply)
