# SPDX-License-Identifier: MIT
# Made by `python -m shared.native.stubs` from the declarations in C; do not edit.

from typing import TypeAlias

from cffi import FFI

CData: TypeAlias = FFI.CData

class _Lib:
    def trace_install(self) -> int: ...
    def crash_watch(self) -> CData: ...
    def heap_keep_small(self) -> None: ...

ffi: FFI
lib: _Lib
