# SPDX-License-Identifier: MIT
# Made by `python -m shared.native.stubs` from the declarations in C; do not edit.

from typing import TypeAlias

from cffi import FFI

CData: TypeAlias = FFI.CData

class _Lib:
    def seccomp_no_new_privs(self) -> int: ...
    def seccomp_load(self, program: CData | bytes, count: int, log: int, /) -> int: ...
    def seccomp_available(self) -> int: ...
    def seccomp_knows(self, verdict: int, /) -> int: ...

ffi: FFI
lib: _Lib
