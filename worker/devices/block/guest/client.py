# SPDX-License-Identifier: MIT
"""A disk of a guest's process, from outside: load, content out and in, flush."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from embedded.guest.client import DeviceClient
from embedded.guest.control import GuestDevice
from worker.devices.block.guest import messages
from worker.devices.block.guest.disk import KIND
from worker.devices.block.guest.load import LoadConfig, LoadResult, Progress
from worker.devices.block.guest.messages import DiskDetails

IO_TIMEOUT: Final = 120.0
"""Seconds without a byte from the guest during I/O; more than it waits for its own backend."""


class RemoteDisk(DeviceClient):
    """One disk, over one connection to its guest; `name` is its vdev or its device number."""

    kind = KIND
    replies = messages.REPLIES

    def io(
        self,
        config: LoadConfig,
        progress: Callable[[Progress], None] | None = None,
        interval: float = 0.25,
    ) -> LoadResult:
        """Run a load to its end; closing the connection ends it early."""
        request = messages.RunLoad(config, interval if progress else 0.0)
        self._send(request, config.runtime + config.stall + IO_TIMEOUT)
        while isinstance(reply := self._reply(), messages.ProgressReply):
            if progress is not None:
                progress(reply.progress)
        return self._checked(reply, messages.LoadReply).result

    def read_out(self, offset: int = 0, count: int = 0) -> Iterator[bytes]:
        """The content from `offset` (bytes) on; `count` 0 is to the end."""
        self._send(messages.ReadOut(offset, count), IO_TIMEOUT)
        while length := self._expect(messages.DataReply).length:
            yield self._client.read_raw(length)

    def write_in(self, offset: int, count: int, chunks: Iterable[bytes]) -> None:
        """Write exactly `count` bytes at `offset`, then flush."""
        self._send(messages.WriteIn(offset, count), IO_TIMEOUT)
        self._expect(messages.SendData)
        for chunk in chunks:
            try:
                self._client.send_raw(chunk)
            except OSError:
                break  # It refused half-way; its answer says why.
        self._expect(messages.DataWritten)

    def flush(self) -> None:
        """Flush the disk."""
        self._send(messages.FlushDisk(), IO_TIMEOUT)
        self._expect(messages.DiskFlushed)

    @property
    def size(self) -> int:
        """Bytes; 0 if there is no such disk or it was never connected."""
        for device in self._client.describe().devices:
            if device.kind == self.kind and self.name in (device.name, str(device.devid)):
                return details_of(device).size
        return 0


def details_of(device: GuestDevice) -> DiskDetails:
    """What the guest says of a disk."""
    return msgspec.convert(device.details, DiskDetails)
