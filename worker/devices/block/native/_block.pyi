# SPDX-License-Identifier: MIT
# Made by `python -m shared.native.stubs` from the declarations in C; do not edit.

from typing import TypeAlias

from cffi import FFI

CData: TypeAlias = FFI.CData

class _Lib:
    HV_PAGE_SIZE: int
    HV_GNT_OKAY: int
    BLK_WAKE: int
    BLK_TIMEOUT: int
    BLK_FAULT: int
    BLK_FAULT_NONE: int
    BLK_FAULT_OVERFLOW: int
    BLK_FAULT_EVENTS: int
    BLK_FAULT_RESPONSES: int
    BLK_ENGINE_AUTO: int
    BLK_ENGINE_SYNC: int
    def blk_open(self, config: CData, /) -> CData: ...
    def blk_attach(self, dev: CData, config: CData, /) -> int: ...
    def blk_run(
        self,
        dev: CData,
        wake_fds: CData | list[int],
        count: int,
        timeout_ms: int,
        /,
    ) -> int: ...
    def blk_detach(self, dev: CData, timeout_ms: int, /) -> int: ...
    def blk_seal(self, dev: CData, /) -> None: ...
    def blk_close(self, dev: CData, /) -> None: ...
    def blk_counters(self, dev: CData, out: CData, /) -> None: ...
    def blk_status(self, dev: CData, out: CData, /) -> None: ...

ffi: FFI
lib: _Lib
