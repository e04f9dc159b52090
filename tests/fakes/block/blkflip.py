# SPDX-License-Identifier: MIT
"""A guest that writes over its requests while the backend parses them, in C (native/blk_flip.c).

The backend is the product's own module, `worker.devices.block.native._block`; grants, disk and
guest are the test's, and note what no backend may ever do. A backend in parts is in
tests/fakes/block/blk.py.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

from shared.native.table import table
from tests.fakes.block.blk import Layout
from tests.fakes.block.nativebuild import compiled
from worker.devices.block.native._block import ffi as block_ffi
from worker.devices.block.native._block import lib as block_lib

SECTORS = 1 << 14
SLOTS = 32


@functools.cache
def native() -> Any:
    """The module; built once per run."""
    # The backend's types; its functions are not in this module.
    declared = table()["worker.devices.block.native._block"].declared()
    types, mark, _ = declared.partition("struct blk_dev;")
    return compiled(
        "_blkflip",
        declared=types + mark,
        own="blk_flip",
        sources=[f"tests/fakes/block/native/blk_flip{part}.c" for part in ("", "_host", "_events")],
    )


def _over(pointer: Any, kind: str) -> Any:
    """The same address for the product's module."""
    address = int(native().ffi.cast("uintptr_t", pointer))
    return block_ffi.cast(kind, address)


class FlipBench:
    """One device of the backend, and the guest that works against it."""

    def __init__(self, layout: Layout, **options: Any) -> None:
        """`options` are those of `struct blk_config`."""
        self._ffi, self._lib = native().ffi, native().lib
        self._layout = layout
        flip_config = {
            "slots": SLOTS,
            "slot": layout.slot,
            "id": layout.id,
            "sector": layout.sector,
            "segments": layout.segments,
            "sectors": SECTORS,
            "read_only": options.get("read_only", 0),
        }
        self._flip = self._lib.flip_open(self._ffi.new("struct flip_config *", flip_config))
        assert self._flip != self._ffi.NULL
        config = {
            "hv": _over(self._lib.flip_ops(self._flip), "struct hv_ops *"),
            "disk": _over(self._lib.flip_disk(self._flip), "struct blk_disk *"),
            "fd": -1,
            "domid": 3,
            "sectors": SECTORS,
            "sector_size": 512,
            "flush": 1,
            "discard": 1,
            "io_threads": 1,
            "max_persistent": 1056,
            **options,
        }
        self.device = block_lib.blk_open(block_ffi.new("struct blk_config *", config))
        assert self.device != block_ffi.NULL
        self._journal = os.memfd_create("journal")

    def attach(self, *, persistent: bool, journal: bool, resume: bool = False) -> int:
        """`blk_attach`."""
        config = {
            "ring": _over(self._lib.flip_memory(self._flip), "void *"),
            "connection": {"layout32": self._layout.x86_32, "remote_port": 5, "refs": [8]},
            "port": self._lib.FLIP_PORT,
            "persistent": persistent,
            "resume": resume,
            "journal_fd": self._journal if journal else -1,
            "journal": journal,
        }
        result: int = block_lib.blk_attach(
            self.device, block_ffi.new("struct blk_ring_config *", config)
        )
        return result

    def detach(self) -> int:
        """`blk_detach`."""
        result: int = block_lib.blk_detach(self.device, 10_000)
        return result

    def run(self) -> int:
        """`blk_run` without waiting."""
        result: int = block_lib.blk_run(self.device, block_ffi.NULL, 0, 0)
        return result

    def status(self) -> Any:
        """`blk_status`."""
        out = block_ffi.new("struct blk_status *")
        block_lib.blk_status(self.device, out)
        return out

    def counters(self) -> Any:
        """`blk_counters`."""
        out = block_ffi.new("struct blk_counters *")
        block_lib.blk_counters(self.device, out)
        return out

    @contextlib.contextmanager
    def flipping(self, *, producer: bool = False) -> Iterator[None]:
        """The other thread writes: into requests, or into `req_prod` and `rsp_prod`."""
        assert self._lib.flip_start(self._flip, producer) == 0
        try:
            yield
        finally:
            self._lib.flip_stop(self._flip)

    def serve_polite_guest(self, pushes: int) -> int:
        """Sleep and serve while the guest sends that many flushes and only the events asked for;
        the reason for which `blk_run` ended.
        """
        done = os.eventfd(0)
        try:
            assert self._lib.flip_ring(self._flip, pushes, done) == 0
            reason: int = block_lib.blk_run(self.device, [done], 1, 120_000)
        finally:
            self._lib.flip_stop(self._flip)
            os.close(done)
        return reason

    def fill(self) -> None:
        """A ring full of good requests."""
        self._lib.flip_fill(self._flip)

    def rounds(self, requests: int) -> bool:
        """That many requests with their answers; False at the first violation."""
        engine = self._ffi.new("struct flip_engine *")
        engine.dev = self._ffi.cast("struct blk_dev *", self._address(self.device))
        for name in ("run", "status"):
            library: Any = block_lib
            function = block_ffi.addressof(library, f"blk_{name}")
            field = self._ffi.typeof(getattr(engine, name))
            setattr(engine, name, self._ffi.cast(field, self._address(function)))
        result: int = self._lib.flip_rounds(self._flip, engine, requests)
        return result == 0

    def report(self) -> dict[str, Any]:
        """What was done, and `first`: the first violation, or nothing."""
        out = self._ffi.new("struct flip_report *")
        self._lib.flip_report(self._flip, out)
        fields = self._ffi.typeof("struct flip_report").fields
        return {
            name: self._ffi.string(value).decode() if name == "first" else int(value)
            for name, value in ((name, getattr(out, name)) for name, _ in fields)
        }

    def close(self) -> None:
        """Free everything."""
        self._lib.flip_stop(self._flip)
        block_lib.blk_detach(self.device, 1000)
        block_lib.blk_close(self.device)
        self._lib.flip_close(self._flip)
        os.close(self._journal)

    @staticmethod
    def _address(pointer: Any) -> int:
        return int(block_ffi.cast("uintptr_t", pointer))


@contextlib.contextmanager
def flip_bench(layout: Layout, **options: Any) -> Iterator[FlipBench]:
    """A bench that leaves nothing behind."""
    bench = FlipBench(layout, **options)
    try:
        yield bench
    finally:
        bench.close()
