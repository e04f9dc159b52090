# SPDX-License-Identifier: MIT
"""I/O on a connected disk: read, write, flush, discard and load, for one thread at a time.

The part of the block frontend that has nothing to do with xenstore. Data pages are taken when I/O
asks for them, so an idle disk has none. What verify mode knows of the disk lives here, longer than
any ring: it is the disk's content that it knows.
"""

from __future__ import annotations

import threading
from typing import Final

import msgspec

from embedded.domain import Domain
from embedded.guest.frontend import Frontend
from shared.errors import HostError
from shared.xenstore.blocking import BlockingXenstore
from worker.devices.block.about import SECTOR
from worker.devices.block.guest.disk import KIND
from worker.devices.block.guest.load import LoadConfig, LoadResult
from worker.devices.block.guest.ring import FrontRing, VerifyTable

DATA_PAGES_MIN: Final = 64
DATA_PAGES_MAX: Final = 1056
"""3 x 352, what Linux's backend keeps mapped persistently (max_persistent_grants)."""
SEGMENTS_MAX: Final = 11
"""Pages one request can need (BLKIF_MAX_SEGMENTS_PER_REQUEST)."""


class DiskInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the backend says of the disk."""

    sectors: int
    """Of 512 bytes, whichever `sector_size` the backend names."""
    sector_size: int
    readonly: bool
    flush: bool
    discard: bool
    persistent: bool
    slots: int
    """Requests the ring holds."""


class DiskIo(Frontend[DiskInfo]):
    """A disk's ring, and what reads and writes through it."""

    kind = KIND

    def __init__(self, domain: Domain, xs: BlockingXenstore, devid: int) -> None:
        super().__init__(domain, xs, devid)
        self.ring: FrontRing | None = None
        self.table: VerifyTable | None = None
        self._persistent = False
        self._busy = threading.Lock()
        self.leaving = False
        """The ring is about to go: no new I/O."""

    def read(self, sector: int, count: int, *, timeout: float = 30.0, poll_us: int = 0) -> bytes:
        """Read `count` sectors; raises as `FrontRing.read`, HostError if not connected."""
        with self._io() as ring:
            return ring.read(sector, count, timeout=timeout, poll_us=poll_us)

    def write(
        self, sector: int, data: bytes | memoryview, *, timeout: float = 30.0, poll_us: int = 0
    ) -> None:
        """Write whole sectors; raises as `FrontRing.write`."""
        with self._io() as ring:
            if self.table is not None:
                self.table.forget(sector * SECTOR, len(data))
            ring.write(sector, data, timeout=timeout, poll_us=poll_us)

    def flush(self, *, timeout: float = 30.0) -> None:
        """Make durable what was written; raises as `FrontRing.flush`."""
        with self._io() as ring:
            ring.flush(timeout=timeout)

    def discard(self, sector: int, count: int, *, timeout: float = 30.0) -> None:
        """Give sectors back; raises as `FrontRing.discard`."""
        with self._io() as ring:
            if self.table is not None:
                self.table.forget(sector * SECTOR, count * SECTOR)
            ring.discard(sector, count, timeout=timeout)

    def run_load(self, config: LoadConfig) -> LoadResult:
        """Run a load to its end; what it wrote in verify mode is remembered for the next one.

        Raises:
            ConfigError: the figures do not fit the disk.
            HostError: not connected, or there is no data page.
        """
        with self._io() as ring:
            assert self.info is not None
            size = self.info.sectors * SECTOR
            config = config.check(size)
            self._want_pages(ring, _pages_for(config))
            if not config.verify:
                # Blind writes: what was known of the region no longer holds.
                if self.table is not None and config.rw not in ("read", "randread"):
                    self.table.forget(config.offset, config.size)
                return ring.run(config)
            if self.table is None or self.table.unit != config.unit:
                if self.table is not None:
                    self.table.close()
                self.table = VerifyTable(size, config.unit)
            return ring.run(config, self.table)

    def stop(self) -> None:
        """End the I/O another thread is waiting for."""
        ring = self.ring
        if ring is not None:
            ring.stop()

    def release(self) -> None:
        """Drop everything without a word to the backend, what is known of the content too."""
        super().release()
        if self.table is not None:
            self.table.close()
            self.table = None

    def _io(self) -> _Io:
        return _Io(self, self._busy)

    def ensure_pages(self, ring: FrontRing) -> None:
        """Let the ring have data pages for small I/O; idle disks have none."""
        self._want_pages(ring, DATA_PAGES_MIN)

    def _want_pages(self, ring: FrontRing, wanted: int) -> None:
        missing = wanted - ring.pages
        if missing <= 0:
            return
        least = 0 if ring.pages else SEGMENTS_MAX
        frames, refs = self._pages.data(missing, self.backend_domid, least=least)
        if not self._persistent:
            for ref in refs:
                self.domain.write_grant_entry(ref, 0, 0, 0)
        addresses = [self._pages.address(frame) for frame in frames]
        ring.add_pages(addresses, refs, frames)

    def _stop_io(self) -> None:
        """Get the I/O thread out of the ring; a load waits a moment for what is in flight."""
        self.leaving = True
        self.stop()
        with self._busy:
            pass

    def _drop_ring(self) -> None:
        ring, self.ring = self.ring, None
        self.leaving = False
        if ring is not None:
            ring.close()


class _Io:
    """Holds the ring for one call of one thread."""

    def __init__(self, disk: DiskIo, lock: threading.Lock) -> None:
        self._disk = disk
        self._lock = lock

    def __enter__(self) -> FrontRing:
        if not self._lock.acquire(blocking=False):
            raise HostError(f"disk {self._disk.path}: in use by another thread")
        ring = self._disk.ring
        if ring is None or self._disk.info is None or self._disk.leaving:
            self._lock.release()
            raise HostError(f"disk {self._disk.path}: not connected")
        try:
            ring.resume()
            if self._disk.leaving:
                ring.stop()  # `leaving` was set between our look and the line above.
            self._disk.ensure_pages(ring)
        except BaseException:
            self._lock.release()
            raise
        return ring

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _pages_for(config: LoadConfig) -> int:
    """Data pages a load can make use of."""
    if config.data_pages:
        return config.data_pages
    per_io = -(-config.block_size // 4096)
    return max(DATA_PAGES_MIN, min(DATA_PAGES_MAX, config.depth * per_io))
