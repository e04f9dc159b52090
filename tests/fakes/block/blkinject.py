# SPDX-License-Identifier: MIT
"""A block backend that a test kills wherever it likes, and a guest and a disk that outlive it.

The backend's own C, built with BLK_INJECT: it can stop before any store that a recovery depends on
(worker/devices/block/native/blk_point.h), and its I/O threads are a list from which the test picks.
Ring, guest memory, disk and the journal's file stay; the next worker has nothing else to go by.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from shared.native.table import table
from tests.fakes.block.blk import (
    DATA_PAGE,
    LAYOUT_64,
    OKAY,
    READ,
    RING_PAGE,
    FakeDisk,
    FakeFrontend,
)
from tests.fakes.block.nativebuild import compiled
from tests.fakes.hv import PAGE, PORT, FakeHypervisor
from worker.devices.block.native._block import ffi as block_ffi
from worker.devices.block.native._block import lib as block_lib

KILLED = -1000
CRASHED_AT = 12
"""Offset of the crash mark in the journal's file (blk_journal.h)."""
REPLACED = ("/plane/pool.c",)


@functools.cache
def native() -> Any:
    """The module; built once per run."""
    module = table()["worker.devices.block.native._block"]
    sources = [source for source in module.sources if not source.endswith(REPLACED)]
    return compiled(
        "_blkinject",
        declared=module.declared(),
        own="blk_inject",
        sources=[*sources, "tests/fakes/block/native/blk_inject.c"],
        arguments=["-DBLK_INJECT=1", "-Wno-clobbered"],
    )


@dataclass(frozen=True)
class Done:
    """A blocking call on the disk."""

    operation: str
    offset: int


class TracedDisk(FakeDisk):
    """Remembers what was done, and what a flush has made durable."""

    def __init__(self, size: int = 1 << 20) -> None:
        self.trace: list[Done] = []
        super().__init__(size, fail=self._trace, nowait=self._trace)
        self.durable = bytes(size)

    def _trace(self, operation: str, offset: int) -> int:
        self.trace.append(Done(operation, offset))
        if operation == "flush":
            self.durable = bytes(self.data)
        return 0


class Mortal:
    """A guest, a disk, a journal, and one worker after another."""

    def __init__(
        self,
        *,
        order: int = 0,
        start: int = 0,
        persistent: bool = True,
        threads: bool = True,
    ) -> None:
        """`threads`: all I/O goes to the list; otherwise the ring loop does what it can."""
        self.hypervisor = FakeHypervisor(96)
        for page in range(DATA_PAGE, 96):
            self.hypervisor.grant(100 + page - DATA_PAGE, page)
        self.disk = TracedDisk()
        self.frontend = FakeFrontend(self.hypervisor, LAYOUT_64, order)
        self.frontend.start_at(start)
        self.journal = os.memfd_create("journal")
        self.persistent = persistent
        self.threads = threads
        self._order = order
        self._module = native()
        self.device: Any = None

    # --- workers

    def open(self) -> None:
        """A new process; it has not seen the ring yet."""
        assert self.device is None
        ffi = self._module.ffi
        hypervisor = int(block_ffi.cast("uintptr_t", self.hypervisor.ops))
        disk = int(block_ffi.cast("uintptr_t", self.disk.table))
        config = {
            "hv": ffi.cast("struct hv_ops *", hypervisor),
            "disk": ffi.cast("struct blk_disk *", disk),
            "fd": -1,
            "domid": 3,
            "sectors": self.disk.size // 512,
            "sector_size": 512,
            "flush": 1,
            "discard": 1,
            "engine": block_lib.BLK_ENGINE_AUTO,
            "direct_io": self.threads,
            "io_threads": 1,
            "max_persistent": 1056,
        }
        self.device = self._module.lib.blk_open(ffi.new("struct blk_config *", config))
        assert self.device != ffi.NULL

    def attach(self, *, resume: bool = True, **changes: Any) -> int:
        """Take the ring up: 0, -errno or KILLED."""
        connection = {"order": self._order, "remote_port": 5, "refs": [8], **changes}
        config = {
            "ring": self._module.ffi.cast(
                "void *", int(block_ffi.cast("uintptr_t", self.hypervisor.address(RING_PAGE)))
            ),
            "port": PORT,
            "persistent": self.persistent,
            "resume": resume,
            "journal_fd": self.journal,
            "journal": connection.pop("journal", 1),
            "connection": connection,
        }
        ffi = self._module.ffi
        result: int = self._module.lib.blk_inject_attach(
            self.device, ffi.new("struct blk_ring_config *", config)
        )
        return result

    def start(self, *, resume: bool = True, **changes: Any) -> int:
        """`open` and `attach`."""
        self.open()
        return self.attach(resume=resume, **changes)

    def run(self) -> int:
        """Serve what is there; KILLED if the armed point was reached."""
        result: int = self._module.lib.blk_inject_run(self.device, 0)
        return result

    def queued(self) -> int:
        """Requests in the hands of threads."""
        count: int = self._module.lib.blk_inject_queued(self.device)
        return count

    def finish(self, number: int) -> None:
        """A thread ends its request."""
        self._module.lib.blk_inject_finish(self.device, number)

    def settle(self) -> bool:
        """Run until every request has its answer; False if it was killed on the way."""
        for _ in range(1000):
            if self.run() == KILLED:
                return False
            while self.queued():
                self.finish(self.queued() - 1)  # the youngest first: as disorderly as can be
            if self.status().rsp_prod == self.frontend.req_prod:
                return True
        raise AssertionError("requests stay without an answer")

    def detach(self) -> int:
        """An orderly end, without patience: 0 or -errno."""
        result: int = self._module.lib.blk_detach(self.device, 0)
        return result

    def kill(self, *, crash: bool = False) -> None:
        """The worker is gone; a crash of its own says so in the journal."""
        if self.device is not None:
            self._module.lib.blk_inject_abandon(self.device)
            self.device = None
        if crash:
            os.pwrite(self.journal, b"\1\0\0\0", CRASHED_AT)

    def close(self) -> None:
        """Free everything, and disarm: the points are the module's, and the next test's too."""
        self.arm(0)
        self.kill()
        self.frontend.ring.release()
        self.hypervisor.close()
        os.close(self.journal)

    # --- points

    def arm(self, points: int) -> None:
        """Die before the store after that many; 0: live."""
        self._module.lib.blk_inject_arm(points)

    def passed(self) -> int:
        """Points since `arm`."""
        count: int = self._module.lib.blk_inject_passed()
        return count

    # --- looking

    def counters(self) -> dict[str, int]:
        """All counters."""
        ffi = self._module.ffi
        out = ffi.new("struct blk_counters *")
        self._module.lib.blk_counters(self.device, out)
        return {name: getattr(out, name) for name, _ in ffi.typeof("struct blk_counters").fields}

    def status(self) -> Any:
        """The state of the device."""
        out = self._module.ffi.new("struct blk_status *")
        self._module.lib.blk_status(self.device, out)
        return out

    def broken(self) -> str:
        """What an attach found wrong in the journal."""
        text: str = self._module.ffi.string(self.status().journal_broken).decode()
        return text

    def page(self, number: int) -> memoryview:
        """A data page of the guest's."""
        return self.hypervisor.page(DATA_PAGE + number)

    def put(self, operation: int, ident: int, sector: int, page: int) -> None:
        """A request of 4 KiB with one data page."""
        self.frontend.put(operation, ident, sector, [(100 + page, 0, 7)])

    def read(self, *idents: int) -> None:
        """Put reads, each of a sector and a page of its own, and let the worker begin them."""
        for ident in idents:
            self.put(READ, ident, ident * 8, ident)
        self.frontend.push()
        self.run()


@contextlib.contextmanager
def connected() -> Iterator[Mortal]:
    """A worker on a new ring."""
    it = Mortal()
    assert it.start(resume=False) == 0
    yield it
    it.close()


def statuses(answers: Sequence[tuple[int, int, int]]) -> dict[int, int]:
    """Status by id; an id that was answered twice fails the test."""
    found: dict[int, int] = {}
    for ident, _, status in answers:
        assert ident not in found, f"request {ident} has two answers"
        found[ident] = status
    return found


def stamp(number: int) -> bytes:
    """4 KiB that no other number gives."""
    return number.to_bytes(8, "little") * (PAGE // 8)


__all__ = [
    "KILLED",
    "OKAY",
    "Done",
    "Mortal",
    "TracedDisk",
    "connected",
    "native",
    "stamp",
    "statuses",
]
