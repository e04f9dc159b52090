# SPDX-License-Identifier: MIT
"""What a disk of a guest answers to the requests of `messages`, in the guest's process.

Runs in the thread of the control connection; one of them at a time has the disk.
"""

from __future__ import annotations

import os
import select
import threading

import msgspec

from embedded.guest.exchange import Exchange
from shared.errors import ConfigError, HostError
from worker.devices.block.about import SECTOR
from worker.devices.block.guest import messages
from worker.devices.block.guest.blkfront import BlockFrontend
from worker.devices.block.guest.load import Progress
from worker.devices.block.guest.messages import CHUNK, DiskDetails


def details(disk: BlockFrontend) -> DiskDetails:
    """What there is to say of a disk."""
    info, ring = disk.info, disk.ring
    return DiskDetails(
        vdev=disk.name,
        size=info.sectors * SECTOR if info else 0,
        sector_size=info.sector_size if info else 0,
        readonly=info.readonly if info else False,
        slots=info.slots if info else 0,
        persistent=info.persistent if info else False,
        in_flight=ring.in_flight if ring else 0,
    )


def answer(disk: BlockFrontend, body: msgspec.Raw, exchange: Exchange) -> None:
    """Carry out one request; raises as `GuestSide.answer`."""
    match messages.decode_request(body):
        case messages.RunLoad(config, progress):
            with _Watcher(exchange, disk, progress):
                result = disk.run_load(config)
            exchange.reply(messages.LoadReply(result))
        case messages.ReadOut(offset, count):
            _read_out(disk, offset, count, exchange)
        case messages.WriteIn(offset, count):
            _write_in(disk, offset, count, exchange)
        case messages.FlushDisk():
            disk.flush()
            exchange.reply(messages.DiskFlushed())


def _range(disk: BlockFrontend, offset: int, count: int) -> int:
    """Bytes a dd moves; raises ConfigError when they are not there."""
    if disk.info is None:
        raise HostError(f"disk {disk.path}: not connected")
    size = disk.info.sectors * SECTOR
    count = count or max(0, size - offset)
    if offset % SECTOR or count % SECTOR or offset < 0 or count < 0:
        raise ConfigError(f"dd: {offset}+{count}: must be multiples of {SECTOR}")
    if offset + count > size:
        raise ConfigError(f"dd: {offset}+{count}: ends beyond the disk's {size} bytes")
    return count


def _read_out(disk: BlockFrontend, offset: int, count: int, exchange: Exchange) -> None:
    left = _range(disk, offset, count)
    sector = offset // SECTOR
    while left:
        here = min(left, CHUNK)
        data = disk.read(sector, here // SECTOR, poll_us=20)
        exchange.reply(messages.DataReply(here))
        exchange.send(data)
        left -= here
        sector += here // SECTOR
    exchange.reply(messages.DataReply(0))


def _write_in(disk: BlockFrontend, offset: int, count: int, exchange: Exchange) -> None:
    left = _range(disk, offset, count) if count else 0
    exchange.expect(left, messages.SendData())
    sector = offset // SECTOR
    while left:
        data = exchange.receive(min(left, CHUNK))
        disk.write(sector, data, poll_us=20)
        left -= len(data)
        sector += len(data) // SECTOR
    disk.flush()
    exchange.reply(messages.DataWritten(count))


class _Watcher:
    """While a load runs: sends progress, and ends the load when the client is gone."""

    def __init__(self, exchange: Exchange, disk: BlockFrontend, interval: float) -> None:
        self._exchange = exchange
        self._disk = disk
        self._interval = interval
        self._done = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        os.eventfd_write(self._done, 1)
        self._thread.join()
        os.close(self._done)

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._done, select.POLLIN)
        poll.register(self._exchange.fileno(), select.POLLRDHUP)
        while not (ready := poll.poll(self._interval * 1000 if self._interval else None)):
            ring = self._disk.ring
            progress = ring.progress() if ring is not None else None
            if progress is not None and not self._report(progress):
                return
        if not any(fd == self._done for fd, _ in ready):
            self._disk.stop()

    def _report(self, progress: Progress) -> bool:
        try:
            self._exchange.reply(messages.ProgressReply(progress))
        except OSError:
            self._disk.stop()
            return False
        return True
