# SPDX-License-Identifier: MIT
# Made by `python -m shared.native.stubs` from the declarations in C; do not edit.

from typing import TypeAlias

from cffi import FFI

CData: TypeAlias = FFI.CData

class _Lib:
    def slice_get(self) -> int: ...
    def slice_set(self, nanoseconds: int, /) -> int: ...
    def slice_stay(self) -> int: ...
    def slice_roam(self) -> int: ...

ffi: FFI
lib: _Lib
