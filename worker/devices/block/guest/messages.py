# SPDX-License-Identifier: MIT
"""What is said to a disk of a guest, in the body of a `DeviceRequest`, and what it answers.

`RunLoad` may be answered by several `ProgressReply` before its `LoadReply`, `ReadOut` by a
`DataReply` that announces how many raw bytes follow it, again and again until one announces none.
After `WriteIn` is answered by `SendData`, the client sends exactly `count` raw bytes.
"""

from __future__ import annotations

from typing import Final

import msgspec

from worker.devices.block.guest.load import LoadConfig, LoadResult, Progress

CHUNK: Final = 1 << 20
"""Bytes read from or written to the disk at once by dd."""


class DiskRequest(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag=True
):
    """Base of the requests."""


class RunLoad(DiskRequest, frozen=True):
    """Run a load; ends early when the connection is closed. Answered by `LoadReply`."""

    config: LoadConfig
    progress: float = 0.0
    """Seconds between two `ProgressReply`; 0: none."""


class ReadOut(DiskRequest, frozen=True):
    """Send the content; `count` 0 is to the end. Multiples of 512."""

    offset: int
    count: int


class WriteIn(DiskRequest, frozen=True):
    """Take content, then flush; answered by `SendData`, after the data by `DataWritten`."""

    offset: int
    count: int


class FlushDisk(DiskRequest, frozen=True):
    """Flush; answered by `DiskFlushed`."""


AnyRequest = RunLoad | ReadOut | WriteIn | FlushDisk


class DiskReply(msgspec.Struct, frozen=True, tag_field="reply", tag=True):
    """Base of the replies."""


class ProgressReply(DiskReply, frozen=True):
    """How far a load is."""

    progress: Progress


class LoadReply(DiskReply, frozen=True):
    """What came of a load."""

    result: LoadResult


class DataReply(DiskReply, frozen=True):
    """So many raw bytes follow."""

    length: int


class SendData(DiskReply, frozen=True):
    """The client may send its raw bytes."""


class DataWritten(DiskReply, frozen=True):
    """All of it is on the disk."""

    count: int


class DiskFlushed(DiskReply, frozen=True):
    """What was written is durable."""


AnyReply = ProgressReply | LoadReply | DataReply | SendData | DataWritten | DiskFlushed


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
