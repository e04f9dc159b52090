# SPDX-License-Identifier: MIT
# Made by `python -m shared.native.stubs` from the declarations in C; do not edit.

from typing import TypeAlias

from cffi import FFI

CData: TypeAlias = FFI.CData

class _Lib:
    def word_load_acquire(self, address: int, /) -> int: ...
    def word_store_release(self, address: int, value: int, /) -> None: ...
    def ring_push(self, producer: int, event: int, old: int, new_index: int, /) -> int: ...
    def ring_final_check(self, producer: int, event: int, consumer: int, /) -> int: ...

ffi: FFI
lib: _Lib
