# SPDX-License-Identifier: MIT
"""The backend in C on the embedded hypervisor, in the process of the test.

Grants and event channels are real, with the permission checks between domains; worker, supervisor
and xenstore are left out, so thousands of requests cost little. The disk is a memory file. The
guest writes what it likes into its slots, its grant table and its indices.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from embedded.handles import EmbeddedHypervisor
from embedded.hypercalls import Hypercalls, Stats
from tests.fakes.block.worker_bench import Guest
from tests.fakes.waiting import wait_until
from worker.devices.block.guest.ring import REQ_PROD, RSP_PROD
from worker.devices.block.native._block import ffi, lib

SIZE = 1 << 20
Segment = tuple[int, int, int]


class EmbeddedBench:
    """One guest with one disk; `guest.domain` is there to do mischief with."""

    def __init__(self, directory: Path, *, persistent: bool, **options: Any) -> None:
        """`options` are those of `struct blk_config`."""
        self.directory = directory
        self.file = os.memfd_create("disk")
        os.pwrite(self.file, os.urandom(SIZE), 0)
        self.guest = Guest(directory, persistent=persistent)
        self.handles = EmbeddedHypervisor(directory).open_handles(grants=True)
        self._ops = ffi.cast("struct hv_ops *", self.handles.native_ops)
        config = {
            "hv": self._ops,
            "disk": ffi.NULL,
            "fd": self.file,
            "domid": self.guest.domain.domid,
            "sectors": SIZE // 512,
            "sector_size": 512,
            "flush": 1,
            "discard": 1,
            "engine": lib.BLK_ENGINE_SYNC,
            "io_threads": 1,
            "max_persistent": 1056,
            **options,
        }
        self.device = lib.blk_open(ffi.new("struct blk_config *", config))
        assert self.device != ffi.NULL
        self._attach(persistent)

    def _attach(self, persistent: bool) -> None:
        domid = self.guest.domain.domid
        refs = [int(self.guest.nodes["ring-ref"])]
        remote_port = int(self.guest.nodes["event-channel"])
        assert self.handles.grant_table is not None
        self.ring = self.handles.grant_table.map(domid, refs, writable=True)
        self.port = self.handles.event_channels.bind_interdomain(domid, remote_port)
        config = {
            "ring": ffi.cast("void *", self.ring.address),
            "connection": {"remote_port": remote_port, "refs": refs},
            "port": self.port,
            "persistent": persistent,
            "journal_fd": -1,
        }
        assert lib.blk_attach(self.device, ffi.new("struct blk_ring_config *", config)) == 0

    def run(self, timeout_ms: int = 0, wake: Sequence[int] = ()) -> int:
        """`blk_run`."""
        reason: int = lib.blk_run(self.device, list(wake), len(wake), timeout_ms)
        return reason

    def submit(self, operation: int, sector: int, segments: Sequence[Segment]) -> None:
        """Put and publish one request."""
        head = struct.pack("<BBHxxxxQQ", operation, len(segments), 0, 4711, sector)
        raw = head + b"".join(struct.pack("<IBBxx", *one) for one in segments)
        self.guest.ring.raw_submit(raw)

    def ask(self, operation: int, sector: int, segments: Sequence[Segment]) -> int:
        """One request; its status."""
        ring = self.guest.ring
        self.submit(operation, sector, segments)
        while ring.index(RSP_PROD) != ring.index(REQ_PROD):
            assert self.run() == lib.BLK_TIMEOUT
        response = ring.raw_response()
        assert response is not None
        ident, answered, status = struct.unpack_from("<QBxh", response)
        assert (ident, answered) == (4711, operation)
        return int(status)

    def counters(self) -> Any:
        """`blk_counters`."""
        out = ffi.new("struct blk_counters *")
        lib.blk_counters(self.device, out)
        return out

    def content(self) -> bytes:
        """The whole disk."""
        return os.pread(self.file, SIZE + 1, 0)

    def mapped(self) -> int:
        """Pages of the guest's that are mapped, the ring's among them."""
        with Hypercalls(self.directory) as hypercalls:
            return hypercalls.stats().domains[self.guest.domain.domid].mapped

    def detach(self) -> None:
        """`blk_detach`."""
        assert lib.blk_detach(self.device, 10_000) == 0

    def close(self) -> None:
        """Free everything."""
        lib.blk_detach(self.device, 10_000)
        lib.blk_close(self.device)
        self.handles.close()
        self.guest.close()
        os.close(self.file)


@contextlib.contextmanager
def embedded_bench(directory: Path, *, persistent: bool, **options: Any) -> Iterator[EmbeddedBench]:
    """A bench on the hypervisor of a directory, which holds nothing of it afterwards."""
    with Hypercalls(directory) as hypercalls:
        before = hypercalls.stats()
        bench = EmbeddedBench(directory, persistent=persistent, **options)
        try:
            yield bench
        finally:
            bench.close()
        wait_until(lambda: _no_more(hypercalls.stats(), before), "everything to be given back")


def _no_more(now: Stats, before: Stats) -> bool:
    """Fewer descriptors are all right: a forked hypervisor drops what it inherited of ours."""
    same = msgspec.structs.replace(now, descriptors=before.descriptors) == before
    return same and now.descriptors <= before.descriptors
