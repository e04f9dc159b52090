# SPDX-License-Identifier: MIT
"""The type stubs of the native modules say what the modules have."""

from __future__ import annotations

import ast
import importlib

import pytest

from shared.native import stubs
from shared.native.table import table

MODULES = table()


def members(text: str) -> dict[str, int | None]:
    """Names in the stub's `lib`, with the number of arguments of those that are functions."""
    (lib,) = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    found: dict[str, int | None] = {}
    for node in lib.body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = len(node.args.posonlyargs or node.args.args) - 1
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = None
    return found


@pytest.mark.parametrize("name", MODULES)
def test_stubs_file_of_each_module_is_current(name: str) -> None:
    """If not, run `python -m shared.native.stubs`."""
    assert stubs.path(MODULES[name]).read_text() == stubs.stub(MODULES[name])


@pytest.mark.parametrize("name", MODULES)
def test_stubs_have_the_names_and_arguments_of_the_built_module(name: str) -> None:
    """Each function and constant of `lib`, and nothing else."""
    module = importlib.import_module(name)
    there = {
        one: None
        if isinstance(value := getattr(module.lib, one), int)
        else len(module.ffi.typeof(value).args)
        for one in dir(module.lib)
    }

    assert members(stubs.stub(MODULES[name])) == there


def test_stubs_of_pointers_numbers_and_nothing_have_their_types() -> None:
    """What cffi makes of a Python object for the time of a call is allowed; names are not."""
    text = stubs.stub(MODULES["embedded.native._embedded"])

    assert (
        "def embedded_fill_ops(self, ops: CData, evtchn: CData, gnttab: CData, /) -> None: ..."
        in text
    )
    assert "        refs: CData | list[int],\n" in text
    assert "(self, handle: CData, address: CData | bytes, count: int, /) -> int: ..." in text
    assert "    EMBEDDED_MAP_MAX: int\n" in text
