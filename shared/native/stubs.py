# SPDX-License-Identifier: MIT
"""Type stubs of the native modules, made from the declarations in C that cffi reads.

From the root: `.venv/bin/python -m shared.native.stubs` writes `_name.pyi` beside each module. A
test compares them with the declarations, and with the built modules.

Every pointer and structure is a `CData`: the compiler checks C, and cffi checks the rest when a
function is called. If cffi turns a Python object into an array for a call, the stub allows that
object too.

For building only: no runtime code imports this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cffi import FFI

from shared.native.declarations import ROOT
from shared.native.table import NativeModule, table

LINE: Final = 100

_COMMENT: Final = re.compile(r"/\*.*?\*/", re.S)
_NUMBER: Final = re.compile(r"^#define (\w+) ", re.M)
_ENUM: Final = re.compile(r"\benum\b[^;{]*\{([^}]*)\}")
_BODY: Final = re.compile(r"\{[^{}]*\}")
_FUNCTION: Final = re.compile(r"^(\w[\w\s*]*?)\b(\w+)\(([^;]*?)\);", re.M)

_HEAD: Final = """\
# SPDX-License-Identifier: MIT
# Made by `python -m shared.native.stubs` from the declarations in C; do not edit.

from typing import TypeAlias

from cffi import FFI

CData: TypeAlias = FFI.CData

class _Lib:
"""
_FOOT: Final = """
ffi: FFI
lib: _Lib
"""


def stub(module: NativeModule) -> str:
    """Text of the module's stub file."""
    text = _COMMENT.sub(" ", module.declared())
    return _HEAD + "".join([*_constants(text), *_functions(text, module.ffi())]) + _FOOT


def path(module: NativeModule) -> Path:
    """The module's stub file."""
    return ROOT / module.folder / f"{module.name.rpartition('.')[2]}.pyi"


def _constants(text: str) -> Iterator[str]:
    names = _NUMBER.findall(text)
    for enumerators in _ENUM.findall(text):
        names += (one.split("=")[0].strip() for one in enumerators.split(",") if one.strip())
    return (f"    {name}: int\n" for name in names)


def _functions(text: str, ffi: FFI) -> Iterator[str]:
    for result, name, arguments in _FUNCTION.findall(_BODY.sub("{}", text)):
        ctype = ffi.typeof(f"{result}(*)({arguments})")
        names = [one.split()[-1].lstrip("*") for one in arguments.split(",")]
        words = [f"{n}: {_accepted(t)}" for n, t in zip(names, ctype.args, strict=False)]
        if words:
            words.append("/")  # cffi's functions know no names
        yield _signature(name, ["self", *words], _returned(ctype.result))


def _signature(name: str, words: list[str], result: str) -> str:
    line = f"    def {name}({', '.join(words)}) -> {result}: ...\n"
    if len(line) <= LINE + 1:
        return line
    lines = "".join(f"        {word},\n" for word in words)
    return f"    def {name}(\n{lines}    ) -> {result}: ...\n"


def _accepted(ctype: FFI.CType) -> str:
    """What Python may pass for an argument of this type."""
    if ctype.kind != "pointer":
        return _returned(ctype)
    if ctype.item.kind == "void" or ctype.item.cname in ("char", "uint8_t"):
        return "CData | bytes"
    if ctype.item.kind == "primitive":
        return "CData | list[int]"
    if ctype.item.kind == "pointer":
        return "CData | list[CData]"
    return "CData"


def _returned(ctype: FFI.CType) -> str:
    if ctype.kind == "void":
        return "None"
    if ctype.kind == "enum":
        return "int"
    if ctype.kind == "primitive":
        return "float" if ctype.cname in ("float", "double") else "int"
    return "CData"


if __name__ == "__main__":
    for one in table().values():
        path(one).write_text(stub(one), encoding="ascii")
