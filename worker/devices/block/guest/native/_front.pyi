# SPDX-License-Identifier: MIT
# Made by `python -m shared.native.stubs` from the declarations in C; do not edit.

from typing import TypeAlias

from cffi import FFI

CData: TypeAlias = FFI.CData

class _Lib:
    FRONT_BUCKETS: int
    FRONT_READ: int
    FRONT_WRITE: int
    FRONT_RANDREAD: int
    FRONT_RANDWRITE: int
    FRONT_RANDRW: int
    FRONT_END_DONE: int
    FRONT_END_STOPPED: int
    FRONT_END_STUCK: int
    FRONT_END_PROTOCOL: int
    FRONT_END_HOST: int
    FRONT_BAD_NONE: int
    FRONT_BAD_FOREIGN: int
    FRONT_BAD_MISPLACED: int
    FRONT_BAD_STALE: int
    FRONT_BAD_TORN: int
    def front_open(self, params: CData, /) -> CData: ...
    def front_close(self, front: CData, /) -> None: ...
    def front_add_pages(
        self,
        front: CData,
        addresses: CData | list[CData],
        refs: CData | list[int],
        frames: CData | list[int],
        count: int,
        /,
    ) -> int: ...
    def front_pages(self, front: CData, /) -> int: ...
    def front_slots(self, front: CData, /) -> int: ...
    def front_in_flight(self, front: CData, /) -> int: ...
    def front_counters(self, front: CData, out: CData, /) -> None: ...
    def front_stop(self, front: CData, /) -> None: ...
    def front_resume(self, front: CData, /) -> None: ...
    def front_transfer(
        self,
        front: CData,
        write: int,
        sector: int,
        count: int,
        buffer: CData | bytes,
        poll_ns: int,
        stall_ns: int,
        status: CData | list[int],
        /,
    ) -> int: ...
    def front_command(
        self,
        front: CData,
        operation: int,
        sector: int,
        count: int,
        stall_ns: int,
        status: CData | list[int],
        /,
    ) -> int: ...
    def front_run(self, front: CData, config: CData, result: CData, /) -> int: ...
    def front_raw_submit(
        self,
        front: CData,
        slot: CData | bytes,
        length: int,
        publish: int,
        /,
    ) -> int: ...
    def front_raw_response(self, front: CData, slot: CData | bytes, length: int, /) -> int: ...
    def front_raw_wait(self, front: CData, timeout_ns: int, /) -> int: ...
    def front_raw_index(self, front: CData, offset: int, /) -> int: ...
    def front_raw_poke(self, front: CData, offset: int, value: int, /) -> None: ...
    def front_raw_notify(self, front: CData, /) -> int: ...
    def front_table_new(self, bytes: int, unit: int, session: int, /) -> CData: ...
    def front_table_free(self, table: CData, /) -> None: ...
    def front_table_forget(self, table: CData, offset: int, length: int, /) -> None: ...
    def front_table_known(self, table: CData, /) -> int: ...
    def front_pattern(
        self,
        block: CData | bytes,
        unit: int,
        session: int,
        sector: int,
        sequence: int,
        /,
    ) -> None: ...
    def front_pattern_check(
        self,
        block: CData | bytes,
        unit: int,
        session: int,
        sector: int,
        sequence: int,
        out: CData,
        /,
    ) -> int: ...
    def front_bucket(self, nanoseconds: int, /) -> int: ...
    def loopback_start(self, params: CData, /) -> CData: ...
    def loopback_stop(self, loopback: CData, /) -> None: ...
    def loopback_disk(self, loopback: CData, /) -> CData: ...
    def loopback_ops(self, loopback: CData, /) -> CData: ...

ffi: FFI
lib: _Lib
