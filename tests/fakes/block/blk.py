# SPDX-License-Identifier: MIT
"""A disk one can hold up, a frontend that writes any bytes into a ring, and the backend in C
between them: the bench on which the blkif backend is tested.
"""

from __future__ import annotations

import contextlib
import errno
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.hv import PAGE, PORT, FakeHypervisor
from worker.devices.block.native._block import ffi, lib

READ, WRITE, BARRIER, FLUSH, DISCARD, INDIRECT = 0, 1, 2, 3, 5, 6
OKAY, ERROR, EOPNOTSUPP = 0, -1, -2
HEADER = 64
RING_PAGE = 0
"""Guest page where the ring begins; data pages follow behind the longest ring."""
DATA_PAGE = 16


@dataclass(frozen=True)
class Layout:
    """Where things lie in a slot (xen/include/public/io/blkif.h)."""

    slot: int
    id: int
    sector: int
    segments: int
    response: int
    x86_32: bool


LAYOUT_64 = Layout(112, 8, 16, 24, 16, x86_32=False)
LAYOUT_32 = Layout(108, 4, 12, 20, 12, x86_32=True)


@dataclass
class FakeDisk:
    """A disk in memory. `gate` holds blocking calls up; `fail` decides about errors per call."""

    size: int = 64 * 1024
    nowait: Callable[[str, int], int] = lambda _operation, _offset: 0
    """Errno of a nowait call (operation, offset), 0 to let it work."""
    fail: Callable[[str, int], int] = lambda _operation, _offset: 0
    """Errno of a blocking call."""
    limit: int = 1 << 30
    """Bytes one call moves at most."""
    calls: list[str] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.data = bytearray(self.size)
        self.gate = threading.Event()
        self.gate.set()
        self._callbacks = {
            "read": ffi.callback(_MOVE, lambda *a: self._move("read", *a)),
            "write": ffi.callback(_MOVE, lambda *a: self._move("write", *a)),
            "flush": ffi.callback("int(void *)", lambda _: -self._begin("flush", 0, 0)),
            "discard": ffi.callback("int(void *, uint64_t, uint64_t)", self._discard),
        }
        self.table = ffi.new("struct blk_disk *", self._callbacks)

    def _begin(self, operation: str, offset: int, nowait: int) -> int:
        self.threads.add(threading.get_ident())
        if nowait:
            self.calls.append(f"{operation} nowait")
            return self.nowait(operation, offset)
        self.calls.append(operation)
        self.gate.wait()
        return self.fail(operation, offset)

    def _move(
        self, operation: str, _: Any, vector: Any, count: int, offset: int, nowait: int
    ) -> int:
        error = self._begin(operation, offset, nowait)
        if error:
            return -error
        moved = 0
        for i in range(count):
            length = min(vector[i].iov_len, self.limit - moved, max(0, self.size - offset))
            if operation == "read":
                ffi.memmove(vector[i].iov_base, self.data[offset : offset + length], length)
            else:
                self.data[offset : offset + length] = bytes(ffi.buffer(vector[i].iov_base, length))
            moved += length
            offset += length
        return moved

    def _discard(self, _: Any, offset: int, length: int) -> int:
        error = self._begin("discard", offset, 0)
        if not error:
            self.data[offset : offset + length] = bytes(length)
        return -error


_MOVE = "ptrdiff_t(void *, const struct iovec *, int, uint64_t, int)"


class FakeFrontend:
    """Writes requests and indices into the ring as a guest can, and reads the answers."""

    def __init__(self, hypervisor: FakeHypervisor, layout: Layout, order: int) -> None:
        self.layout = layout
        pages = 1 << order
        self.ring = memoryview(hypervisor.memory)[RING_PAGE * PAGE : (RING_PAGE + pages) * PAGE]
        self.slots = 1 << (((pages * PAGE - HEADER) // layout.slot).bit_length() - 1)
        self.req_prod = self.rsp_cons = 0

    def start_at(self, index: int) -> None:
        """Make it a ring that has been in use up to this index."""
        self.req_prod = self.rsp_cons = index
        for offset in (0, 8):
            self.write_index(offset, index)
        for offset in (4, 12):
            self.write_index(offset, index + 1)

    def write_index(self, offset: int, value: int) -> None:
        """Write req_prod (0), req_event (4), rsp_prod (8) or rsp_event (12)."""
        struct.pack_into("<I", self.ring, offset, value & 0xFFFFFFFF)

    def index(self, offset: int) -> int:
        """Read one of them."""
        value: int = struct.unpack_from("<I", self.ring, offset)[0]
        return value

    def slot(self, index: int) -> memoryview:
        """The bytes of a slot."""
        at = HEADER + (index % self.slots) * self.layout.slot
        return self.ring[at : at + self.layout.slot]

    def put(
        self,
        operation: int,
        ident: int,
        sector: int = 0,
        segments: list[tuple[int, int, int]] | None = None,
        *,
        count: int | None = None,
        sectors: int | None = None,
    ) -> None:
        """Write a request; `segments` are (ref, first, last), `count` overrides their number.

        `sectors` is the length of a discard, whose flag is `count`.
        """
        segments = segments or []
        slot = self.slot(self.req_prod)
        layout = self.layout
        slot[:] = b"\xee" * layout.slot
        struct.pack_into(
            "<BBH", slot, 0, operation, len(segments) if count is None else count, 0xEEEE
        )
        struct.pack_into("<Q", slot, layout.id, ident)
        struct.pack_into("<Q", slot, layout.sector, sector)
        for i, (ref, first, last) in enumerate(segments[:11]):
            struct.pack_into("<IBB", slot, layout.segments + 8 * i, ref, first, last)
        if sectors is not None:
            struct.pack_into("<Q", slot, layout.segments, sectors)
        self.req_prod = (self.req_prod + 1) & 0xFFFFFFFF

    def put_raw(self, raw: bytes) -> None:
        """Write a slot's bytes as they are."""
        self.slot(self.req_prod)[: len(raw)] = raw
        self.req_prod = (self.req_prod + 1) & 0xFFFFFFFF

    def push(self) -> None:
        """Publish what was put."""
        self.write_index(0, self.req_prod)

    def answers(self) -> list[tuple[int, int, int]]:
        """(id, operation, status) of the responses published since the last call."""
        found = []
        while self.rsp_cons != self.index(8):
            found.append(struct.unpack_from("<QBxh", self.slot(self.rsp_cons)))
            self.rsp_cons = (self.rsp_cons + 1) & 0xFFFFFFFF
        return found


@dataclass
class Bench:
    """One attached device with everything around it."""

    hypervisor: FakeHypervisor
    disk: FakeDisk
    frontend: FakeFrontend
    device: Any

    def run(self, timeout_ms: int = 0, wake: list[int] | None = None) -> int:
        """One `blk_run`."""
        wake = wake or []
        reason: int = lib.blk_run(self.device, ffi.new("int[]", wake), len(wake), timeout_ms)
        return reason

    def serve(self) -> list[tuple[int, int, int]]:
        """Push, run until the ring is empty (one batch), and give the answers."""
        self.frontend.push()
        self.run()
        self.run()  # a slow first run ends with its batch; this one reaches the sleep
        return self.frontend.answers()

    def serve_all(self, count: int) -> list[tuple[int, int, int]]:
        """Push, and run until that many answers are there, threads or not."""
        self.frontend.push()
        answers = self.frontend.answers()
        for _ in range(200):
            if len(answers) >= count:
                break
            self.run(20)
            answers += self.frontend.answers()
        return answers

    def counters(self) -> dict[str, int]:
        """All counters."""
        out = ffi.new("struct blk_counters *")
        lib.blk_counters(self.device, out)
        return {name: getattr(out, name) for name, _ in ffi.typeof("struct blk_counters").fields}

    def status(self) -> Any:
        """The state of the device."""
        out = ffi.new("struct blk_status *")
        lib.blk_status(self.device, out)
        return out

    def attach(self, **changes: Any) -> int:
        """Attach to the ring (again)."""
        order = (len(self.frontend.ring) // PAGE).bit_length() - 1
        config = {
            "ring": self.hypervisor.address(RING_PAGE),
            "connection": {
                "order": order,
                "layout32": self.frontend.layout.x86_32,
                "remote_port": 5,
                "refs": list(range(8, 8 + (1 << order))),
            },
            "port": PORT,
            "journal_fd": -1,
            **changes,
        }
        result: int = lib.blk_attach(self.device, ffi.new("struct blk_ring_config *", config))
        return result

    def detach(self, timeout_ms: int = 1000) -> int:
        """Detach."""
        result: int = lib.blk_detach(self.device, timeout_ms)
        return result


@contextlib.contextmanager
def bench(
    *,
    layout: Layout = LAYOUT_64,
    order: int = 0,
    start: int = 0,
    attach: bool = True,
    persistent: bool = False,
    disk: FakeDisk | None = None,
    hypervisor: FakeHypervisor | None = None,
    pages: int = 96,
    **options: Any,
) -> Iterator[Bench]:
    """A device on a fake disk (or on `fd`), its ring started at an index, references 100 + n
    granted for data page n.
    """
    hypervisor = hypervisor or FakeHypervisor(pages)
    disk = disk or FakeDisk()
    for page in range(DATA_PAGE, pages):
        hypervisor.grant(100 + page - DATA_PAGE, page)
    config = {
        "hv": ffi.cast("struct hv_ops *", hypervisor.ops),
        "disk": ffi.NULL if "fd" in options else disk.table,
        "fd": -1,
        "domid": 3,
        "sectors": disk.size // 512,
        "sector_size": 512,
        "flush": 1,
        "discard": 1,
        "engine": lib.BLK_ENGINE_SYNC,
        "io_threads": 2,
        "max_persistent": 1056,
        **options,
    }
    config_struct = ffi.new("struct blk_config *", config)
    device = lib.blk_open(config_struct)
    assert device != ffi.NULL
    frontend = FakeFrontend(hypervisor, layout, order)
    frontend.start_at(start)
    it = Bench(hypervisor, disk, frontend, device)
    try:
        if attach:
            assert it.attach(persistent=persistent) == 0
        yield it
    finally:
        disk.gate.set()
        it.detach()
        lib.blk_close(device)
        frontend.ring.release()
        hypervisor.close()


ENOSPC, EIO, EAGAIN, ENOTSUP = errno.ENOSPC, errno.EIO, errno.EAGAIN, errno.EOPNOTSUPP
