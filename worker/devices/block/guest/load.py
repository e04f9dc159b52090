# SPDX-License-Identifier: MIT
"""What a load is and what came of it.

All times are seconds in `LoadConfig` and nanoseconds in `LoadResult`, all amounts bytes. The
histogram is log-linear: 32 buckets per power of two, so a percentile is right to within 3.2 %
(it is given as the upper end of its bucket, so never as better than it was).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from shared.errors import ConfigError
from worker.devices.block.about import SECTOR

Rw = Literal["read", "write", "randread", "randwrite", "randrw"]

RW_NUMBERS: Final[Mapping[str, int]] = {
    "read": 0,
    "write": 1,
    "randread": 2,
    "randwrite": 3,
    "randrw": 4,
}
END_NAMES: Final = ("done", "stopped", "stuck", "protocol", "host")
MISMATCH_NAMES: Final = ("none", "foreign", "misplaced", "stale", "torn")

BLOCK_MAX: Final = 64 * 1024 * 1024
"""Bytes of one I/O; a bound against typing errors, larger ones would work too."""

_LINEAR: Final = 32


class LoadConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run of the load generator."""

    rw: Rw = "randread"
    block_size: Annotated[int, Meta(ge=SECTOR, le=BLOCK_MAX)] = 4096
    """Bytes of one I/O, a multiple of 512. More than 44 KiB goes as several ring requests."""
    depth: Annotated[int, Meta(ge=1, le=4096)] = 1
    """I/Os in flight."""
    runtime: Annotated[float, Meta(ge=0, le=86400)] = 0.0
    """Seconds; with neither this nor `total`, the region once."""
    total: Annotated[int, Meta(ge=0)] = 0
    """Bytes to move at most; 0 is no limit."""
    offset: Annotated[int, Meta(ge=0)] = 0
    """Where the region starts, bytes, a multiple of 512 (with verification, of the unit)."""
    size: Annotated[int, Meta(ge=0)] = 0
    """Length of the region, 0 for all the rest of the disk."""
    read_percent: Annotated[int, Meta(ge=0, le=100)] = 50
    """Share of reads in randrw."""
    verify: bool = False
    """Writes carry content that proves itself; reads of what was written are compared."""
    readback: bool = True
    """With `verify`, after a load that writes, read everything known once more."""
    poll_us: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Microseconds the guest watches the ring before it sleeps on its event channel."""
    stall: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    """Seconds without any answer after which the run ends as "stuck"."""
    seed: Annotated[int, Meta(ge=0, le=2**62)] = 0x5EED
    tick: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    """Seconds; 0: `depth` I/Os in flight all the time, else at most `depth` begin in each tick."""
    record: str = ""
    """File to which the beginning and the end of every I/O are appended; "": none."""
    verify_unit: Annotated[int, Meta(ge=0, le=4096)] = 0
    """Bytes that are verified as one; 0: as many as possible. Loads of different block sizes need
    the same one, for what is known of the disk is kept by unit."""
    data_pages: Annotated[int, Meta(ge=0, le=65536)] = 0
    """Data pages to use at least; 0: as many as depth and block size need, 1056 at most."""

    @property
    def unit(self) -> int:
        """Bytes of one verified unit: the largest that divides both a page and a block."""
        return self.verify_unit or math.gcd(self.block_size, 4096)

    def check(self, disk_bytes: int) -> LoadConfig:
        """The same with its region made definite.

        Raises:
            ConfigError: a figure is not possible on a disk of this size.
        """
        if self.block_size % SECTOR or self.offset % SECTOR:
            raise ConfigError("load: block size and offset: must be multiples of 512")
        if self.verify and (self.unit % SECTOR or math.gcd(self.block_size, 4096) % self.unit):
            raise ConfigError("load: verify_unit: must divide both a block and a page")
        if self.verify and self.offset % self.unit:
            raise ConfigError(f"load: offset: must be a multiple of {self.unit} to verify")
        size = self.size or max(0, disk_bytes - self.offset)
        if self.offset + size > disk_bytes:
            raise ConfigError(f"load: region: ends beyond the disk's {disk_bytes} bytes")
        if size < self.block_size:
            raise ConfigError(f"load: region: {size} bytes are less than one block")
        return msgspec.structs.replace(self, size=size)


class Mismatch(msgspec.Struct, frozen=True, kw_only=True):
    """The first unit whose content was not what was last written there."""

    kind: str
    """foreign: not written in this session; misplaced: belongs to another sector; stale: an
    older write, so one was lost; torn: only part of the write."""
    sector: int
    bad_offset: int
    """First wrong byte within the unit."""
    expected_sequence: int
    found_sector: int
    found_sequence: int


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Nanoseconds from asking to the answer; all 0 when nothing was measured."""

    count: int = 0
    mean: int = 0
    p50: int = 0
    p99: int = 0
    p999: int = 0
    max: int = 0


class LoadResult(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one run."""

    end: str
    """done, stopped, stuck (no answer), protocol (the backend broke it), host (our own side)."""
    error: str = ""
    elapsed: float
    """Seconds of the main phase, without reading back."""
    cpu: float
    """Seconds of CPU time the guest's thread used in it."""
    reads: int
    writes: int
    read_bytes: int
    write_bytes: int
    errors: int
    """I/Os the backend answered with an error."""
    first_error: str = ""
    verified: int
    """Units compared with what was last written."""
    unverified: int
    """Units read in verify mode whose content was not known."""
    mismatches: int
    mismatch: Mismatch | None = None
    in_flight: int
    """I/Os without an answer at the end."""
    notifies: int
    events: int
    read_latency: Latency
    write_latency: Latency

    @property
    def ok(self) -> bool:
        """It ran to its end without an error or a wrong byte."""
        return self.end in ("done", "stopped") and not self.errors and not self.mismatches

    @property
    def iops(self) -> float:
        """Completed I/Os per second."""
        return (self.reads + self.writes) / self.elapsed if self.elapsed else 0.0

    @property
    def bandwidth(self) -> float:
        """Bytes per second."""
        return (self.read_bytes + self.write_bytes) / self.elapsed if self.elapsed else 0.0


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of a run that is still going on."""

    reads: int
    writes: int
    read_bytes: int
    write_bytes: int
    errors: int
    mismatches: int
    verified: int


def bucket_end(index: int) -> int:
    """Largest nanosecond value of a bucket; inverse of `front_bucket` in C."""
    if index < _LINEAR:
        return index
    exponent, within = divmod(index, _LINEAR)
    shift = exponent - 1
    return ((within + _LINEAR + 1) << shift) - 1


def latency(buckets: list[int]) -> Latency:
    """Percentiles of a histogram: counts by bucket."""
    count = sum(buckets)
    if not count:
        return Latency()
    total = sum(n * bucket_end(i) for i, n in enumerate(buckets) if n)
    last = max(i for i, n in enumerate(buckets) if n)
    return Latency(
        count=count,
        mean=total // count,
        p50=_percentile(buckets, count, 0.5),
        p99=_percentile(buckets, count, 0.99),
        p999=_percentile(buckets, count, 0.999),
        max=bucket_end(last),
    )


def _percentile(buckets: list[int], count: int, share: float) -> int:
    """Upper end of the bucket that holds the value below which `share` of all lie."""
    wanted = math.ceil(count * share)
    for index, n in enumerate(buckets):
        wanted -= n
        if wanted <= 0:
            return bucket_end(index)
    return bucket_end(len(buckets) - 1)
