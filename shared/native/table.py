# SPDX-License-Identifier: MIT
"""The native modules: what pyproject.toml lists in `[tool.xenbackd.native]` (cffi, API mode).

A module's key is its dotted name. `headers` declare what Python may call, each header after those
it needs; `sources` are the C files; `uses` are headers that are only compiled against. All are
paths from the root of the repository. `links` names libraries, `defines` preprocessor symbols.

For building only: no runtime code imports this module.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import Final

from cffi import FFI

from shared.native.declarations import ROOT, declarations

FLAGS: Final = ("-O2", "-Wall", "-Wextra", "-Werror", "-pthread")


@dataclass(frozen=True, slots=True)
class NativeModule:
    """One row of the table."""

    name: str
    headers: tuple[str, ...]
    sources: tuple[str, ...]
    uses: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    defines: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """The module's folder, from the root."""
        return self.name.rpartition(".")[0].replace(".", "/")

    @property
    def include_dirs(self) -> list[str]:
        """The root, from where headers include each other, and the module's own folder."""
        return [".", self.folder]

    @property
    def variable(self) -> str:
        """The name by which setup.py finds the module in build.py."""
        return self.name.replace(".", "_")

    def declared(self) -> str:
        """What Python may call, for cffi."""
        return declarations(*self.headers)

    def ffi(self) -> FFI:
        """The module, ready to be compiled."""
        ffi = FFI()
        if "struct iovec" in (text := self.declared()):
            ffi.cdef("struct iovec { void *iov_base; size_t iov_len; };")
        ffi.cdef(text)
        ffi.set_source(
            self.name,
            "".join(f'#include "{header}"\n' for header in self.headers),
            sources=list(self.sources),
            depends=[*self.headers, *self.uses],
            include_dirs=self.include_dirs,
            libraries=list(self.links),
            define_macros=[(name, None) for name in self.defines],
            extra_compile_args=list(FLAGS),
            extra_link_args=["-pthread"],
        )
        return ffi


def table() -> dict[str, NativeModule]:
    """All native modules by name."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        rows = tomllib.load(file)["tool"]["xenbackd"]["native"]
    return {
        name: NativeModule(name, **{key: tuple(value) for key, value in row.items()})
        for name, row in rows.items()
    }
