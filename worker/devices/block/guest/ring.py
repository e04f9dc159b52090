# SPDX-License-Identifier: MIT
"""The frontend's ring over given addresses: data in and out, load, and raw access for tests.

A `FrontRing` knows nothing of xenstore or domains: its maker says where the ring, the grant table
and the data pages are. It belongs to one thread at a time, except `stop`, `progress` and
`in_flight`. The memory must outlive it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from shared.errors import BackendBug, ConfigError, HostError
from worker.devices.block.about import SECTOR
from worker.devices.block.guest.load import (
    END_NAMES,
    MISMATCH_NAMES,
    RW_NUMBERS,
    LoadConfig,
    LoadResult,
    Mismatch,
    Progress,
    latency,
)
from worker.devices.block.guest.native._front import ffi, lib

OP_FLUSH: Final = 3
OP_DISCARD: Final = 5

REQ_PROD: Final = 0
REQ_EVENT: Final = 4
RSP_PROD: Final = 8
RSP_EVENT: Final = 12
"""Offsets of the indices in the ring's first page (xen/include/public/io/ring.h)."""

_NS: Final = 1_000_000_000


class BlockIoError(HostError):
    """The backend answered a request with an error; `status` as in blkif.h: -1 or -2."""

    def __init__(self, what: str, status: int) -> None:
        name = {-1: "ERROR", -2: "EOPNOTSUPP"}.get(status, str(status))
        super().__init__(f"{what}: backend answered {name}")
        self.status = status


class StuckError(HostError):
    """The backend gave no answer in time."""


class RingBrokenError(HostError):
    """The backend broke the protocol: a response that was not asked for, an impossible index."""


class StoppedError(HostError):
    """`stop` was called while the request was in flight."""


class Counters(msgspec.Struct, frozen=True):
    """Over the life of one ring."""

    requests: int
    responses: int
    notifies: int
    events: int
    bad_responses: int
    grants_in_use: int
    """Pages the backend still held when it answered, without persistent grants."""


class VerifyTable:
    """What was last written to each unit of a disk; lives as long as the disk's content counts."""

    def __init__(self, disk_bytes: int, unit: int, session: int | None = None) -> None:
        self.unit = unit
        self.session = secrets.randbits(63) if session is None else session
        self.handle = lib.front_table_new(disk_bytes, unit, self.session)
        if self.handle == ffi.NULL:
            raise HostError(f"verification: table for {disk_bytes} bytes: out of memory")

    def forget(self, offset: int, length: int) -> None:
        """Something else wrote there (bytes): the content is unknown again."""
        lib.front_table_forget(self.handle, offset, length)

    @property
    def known(self) -> int:
        """Units whose content is known."""
        return int(lib.front_table_known(self.handle))

    def close(self) -> None:
        """Free the table. Idempotent."""
        handle, self.handle = self.handle, ffi.NULL
        lib.front_table_free(handle)


class FrontRing:
    """One blkif ring seen from the frontend."""

    def __init__(
        self,
        *,
        ring: int,
        order: int,
        bits: int,
        grant_table: int,
        grant_count: int,
        ops: int,
        port: int,
        backend_domid: int = 0,
        handle: int = 0,
        persistent: bool = True,
        first_index: int = 0,
    ) -> None:
        """Initialise the ring page at address `ring` (2^order pages, contiguous here).

        `ops` is the address of a `struct hv_ops` of the guest's own event channels, `grant_table`
        that of its version 1 entries, `bits` 64 or 32 selects the request layout. `first_index` is
        where the indices start: 0 in any real guest, close to 2^32 to see them wrap around.

        Raises:
            HostError: out of memory or descriptors.
        """
        params: Any = ffi.new("struct front_params *")
        params.ring = ffi.cast("uint8_t *", ring)
        params.order = order
        params.bits = bits
        params.grant_entries = ffi.cast("uint8_t *", grant_table)
        params.grant_count = grant_count
        params.backend_domid = backend_domid
        params.handle = handle & 0xFFFF
        params.port = port
        params.ops = ffi.cast("struct hv_ops *", ops)
        params.persistent = persistent
        params.first_index = first_index
        self.slot_size = 112 if bits == 64 else 108
        self._front = lib.front_open(params)
        if self._front == ffi.NULL:
            raise HostError(f"block frontend: ring: {os.strerror(ffi.errno)}")
        self._running: Any = None

    def add_pages(
        self, addresses: Sequence[int], refs: Sequence[int], frames: Sequence[int]
    ) -> None:
        """Add data pages. With persistent grants they must be granted already, and stay so."""
        pointers = ffi.new("uint8_t *[]", [ffi.cast("uint8_t *", a) for a in addresses])
        self._check(
            lib.front_add_pages(self._front, pointers, list(refs), list(frames), len(refs)),
            "data pages",
        )

    @property
    def pages(self) -> int:
        """Data pages of the ring."""
        return int(lib.front_pages(self._front))

    @property
    def slots(self) -> int:
        """Requests the ring holds."""
        return int(lib.front_slots(self._front))

    @property
    def in_flight(self) -> int:
        """Requests that have no answer yet."""
        return int(lib.front_in_flight(self._front))

    def counters(self) -> Counters:
        """Counters since the ring was made."""
        out: Any = ffi.new("struct front_counters *")
        lib.front_counters(self._front, out)
        return Counters(
            out.requests,
            out.responses,
            out.notifies,
            out.events,
            out.bad_responses,
            out.grants_in_use,
        )

    # Data

    def read(self, sector: int, count: int, *, timeout: float = 30.0, poll_us: int = 0) -> bytes:
        """Read `count` sectors of 512 bytes.

        Raises:
            BlockIoError, StuckError, RingBrokenError, StoppedError: see there.
        """
        buffer = bytearray(count * SECTOR)
        self._transfer(False, sector, count, ffi.from_buffer(buffer), timeout, poll_us)
        return bytes(buffer)

    def write(
        self, sector: int, data: bytes | memoryview, *, timeout: float = 30.0, poll_us: int = 0
    ) -> None:
        """Write whole sectors; raises as `read`."""
        if len(data) % SECTOR:
            raise ValueError(f"{len(data)} bytes are no whole sectors")
        buffer = ffi.from_buffer("uint8_t[]", data)
        self._transfer(True, sector, len(data) // SECTOR, buffer, timeout, poll_us)

    def flush(self, *, timeout: float = 30.0) -> None:
        """Make what was answered durable; raises as `read`."""
        self._command("flush", OP_FLUSH, 0, 0, timeout)

    def discard(self, sector: int, count: int, *, timeout: float = 30.0) -> None:
        """Give sectors back; raises as `read`."""
        self._command("discard", OP_DISCARD, sector, count, timeout)

    def _transfer(
        self, write: bool, sector: int, count: int, buffer: Any, timeout: float, poll_us: int
    ) -> None:
        status = ffi.new("int *")
        pointer = ffi.cast("uint8_t *", buffer)
        result = lib.front_transfer(
            self._front, write, sector, count, pointer, poll_us * 1000, int(timeout * _NS), status
        )
        self._check(result, f"{'write' if write else 'read'}: sector {sector}+{count}", status[0])

    def _command(self, what: str, op: int, sector: int, count: int, timeout: float) -> None:
        status = ffi.new("int *")
        result = lib.front_command(self._front, op, sector, count, int(timeout * _NS), status)
        self._check(result, f"{what}: sector {sector}+{count}", status[0])

    def _check(self, result: int, what: str, status: int = 0) -> None:
        if result >= 0:
            return
        what = f"block frontend: {what}"
        if result == -errno.EIO and status:
            raise BlockIoError(what, status)
        if result == -errno.ETIMEDOUT:
            raise StuckError(f"{what}: no answer in time")
        if result == -errno.EPROTO:
            raise RingBrokenError(f"{what}: the backend broke the protocol of the ring")
        if result == -errno.EINTR:
            raise StoppedError(f"{what}: stopped")
        if result == -errno.EINVAL:
            raise BackendBug(f"{what}: not possible with these figures")
        raise HostError(f"{what}: {os.strerror(-result)}")

    # Load

    def run(self, config: LoadConfig, table: VerifyTable | None = None) -> LoadResult:
        """Run a load that was checked against the disk (`LoadConfig.check`); waits for its end.

        Raises:
            HostError: there are not enough data pages.
        """
        native: Any = ffi.new("struct front_config *")
        native.rw = RW_NUMBERS[config.rw]
        native.read_percent = config.read_percent
        native.block_size = config.block_size
        native.depth = config.depth
        native.offset = config.offset
        native.size = config.size
        native.runtime_ns = int(config.runtime * _NS)
        native.total_bytes = config.total
        native.poll_ns = config.poll_us * 1000
        native.stall_ns = int(config.stall * _NS)
        native.tick_ns = int(config.tick * _NS)
        native.seed = config.seed
        if table is not None and config.verify:
            native.table = table.handle
        native.readback = config.readback and config.rw not in ("read", "randread")
        result = ffi.new("struct front_result *")
        self._running = result
        try:
            with _record_file(config.record) as native.record_fd:
                self._check(lib.front_run(self._front, native, result), "load")
        finally:
            self._running = None
        return _result(result)

    def progress(self) -> Progress | None:
        """Counters of the run another thread is in; None if there is none."""
        result = self._running
        if result is None:
            return None
        return Progress(
            reads=result.reads,
            writes=result.writes,
            read_bytes=result.read_bytes,
            write_bytes=result.write_bytes,
            errors=result.errors,
            mismatches=result.mismatches,
            verified=result.verified,
        )

    def stop(self) -> None:
        """End the present call of another thread, and all further ones until `resume`."""
        lib.front_stop(self._front)

    def resume(self) -> None:
        """Allow calls again after `stop`."""
        lib.front_resume(self._front)

    # Raw access: nothing here is checked or remembered, so nothing else works afterwards

    def raw_submit(self, slot: bytes, *, publish: bool = True) -> None:
        """Put any bytes (up to a slot's) into the next slot, and publish it as usual."""
        self._check(lib.front_raw_submit(self._front, slot, len(slot), publish), "raw request")

    def raw_response(self, length: int = 16) -> bytes | None:
        """The bytes of the next response, None when none is there."""
        out = ffi.new("uint8_t[]", length)
        found = lib.front_raw_response(self._front, out, length)
        self._check(found, "raw response")
        return bytes(ffi.buffer(out)) if found else None

    def raw_wait(self, timeout: float) -> bool:
        """Wait on the event channel until a response is there; False when time is over."""
        result = lib.front_raw_wait(self._front, int(timeout * _NS))
        self._check(result, "raw wait")
        return bool(result)

    def index(self, offset: int) -> int:
        """An index of the ring's header (`REQ_PROD` …), unsigned 32 bit."""
        return int(lib.front_raw_index(self._front, offset))

    def poke(self, offset: int, value: int) -> None:
        """Write any value into an index of the ring's header."""
        lib.front_raw_poke(self._front, offset, value & 0xFFFFFFFF)

    def notify(self) -> None:
        """Ring the backend's bell, needed or not."""
        self._check(lib.front_raw_notify(self._front), "notify")

    def close(self) -> None:
        """Forget the ring; its pages are the owner's again. Idempotent."""
        front, self._front = self._front, ffi.NULL
        lib.front_close(front)


@contextlib.contextmanager
def _record_file(path: str) -> Iterator[int]:
    """Descriptor of the file for the records, -1 for none."""
    if not path:
        yield -1
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"load: record: {path}: {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _result(native: Any) -> LoadResult:
    mismatch = None
    if native.mismatches:
        first = native.mismatch
        mismatch = Mismatch(
            kind=MISMATCH_NAMES[first.kind],
            sector=first.sector,
            bad_offset=first.bad_offset,
            expected_sequence=first.expected_sequence,
            found_sector=first.found_sector,
            found_sequence=first.found_sequence,
        )
    first_error = ""
    if native.errors:
        first_error = f"sector {native.first_error_sector}: status {native.first_error_status}"
    return LoadResult(
        end=END_NAMES[native.end],
        error=os.strerror(native.error) if native.error else "",
        elapsed=native.elapsed_ns / _NS,
        cpu=native.cpu_ns / _NS,
        reads=native.reads,
        writes=native.writes,
        read_bytes=native.read_bytes,
        write_bytes=native.write_bytes,
        errors=native.errors,
        first_error=first_error,
        verified=native.verified,
        unverified=native.unverified,
        mismatches=native.mismatches,
        mismatch=mismatch,
        in_flight=native.in_flight,
        notifies=native.notifies,
        events=native.events,
        read_latency=latency(list(native.read_latency)),
        write_latency=latency(list(native.write_latency)),
    )
