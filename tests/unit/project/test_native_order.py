# SPDX-License-Identifier: MIT
"""The C files of a native module have an order: none uses what is above it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from shared.native.table import NativeModule, table
from tests.root import ROOT

PACKAGES = ("supervisor", "worker", "shared", "embedded", "config")
TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|[A-Za-z_]\w*|->|\S')
WORD = re.compile(r"[A-Za-z_]\w*")


class Functions:
    """What a C file defines for others, and every name that its bodies and tables use."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.defined: set[str] = set()
        self.used: set[str] = set()
        own: set[str] = set()
        head: list[str] = []
        depth = 0
        reads = False
        for i, token in enumerate(tokens):
            if token == "{":
                if depth == 0:
                    reads = "(" in head or "=" in head
                    if "(" in head and "=" not in head:
                        name = head[head.index("(") - 1]
                        (own if "static" in head else self.defined).add(name)
                depth += 1
            elif token == "}":
                depth -= 1
            elif depth and reads and WORD.match(token) and tokens[i - 1] not in (".", "->"):
                self.used.add(token)
            elif depth == 0:
                head.append(token)
            if depth == 0 and token in ";}":
                head.clear()
        self.used -= own | self.defined


def tokens(source: str, module: NativeModule, root: Path = ROOT) -> list[str]:
    """The file as the compiler sees it, macros expanded, without what is not ours."""
    words = ["gcc", "-E", source]
    words += [f"-I{folder}" for folder in module.include_dirs]
    words += [f"-D{name}" for name in module.defines]
    text = subprocess.run(words, cwd=root, capture_output=True, text=True, check=True).stdout
    return TOKEN.findall("\n".join(our_lines(text)))


def our_lines(text: str) -> Iterator[str]:
    """Lines from files that are named from the root on, as headers of the system are not."""
    ours = True
    for line in text.splitlines():
        mark = re.match(r'# \d+ "([^"]*)"', line)
        if mark:
            ours = not mark[1].startswith(("/", "<"))
        elif ours:
            yield line


def uses(module: NativeModule, root: Path = ROOT) -> Mapping[str, set[str]]:
    """For each source of the module, the others that it uses."""
    files = {source: Functions(tokens(source, module, root)) for source in module.sources}
    where = {name: source for source, file in files.items() for name in file.defined}
    return {
        source: {where[name] for name in file.used if name in where} - {source}
        for source, file in files.items()
    }


def included(module: NativeModule) -> Iterator[str]:
    """Headers of ours that the module's sources and Python's part of it include."""
    words = ["gcc", "-MM", *(f"-I{folder}" for folder in module.include_dirs)]
    words += [*(f"-D{name}" for name in module.defines), *module.sources, *module.headers]
    rules = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for word in rules.replace("\\\n", " ").split():
        if word.endswith(".h"):
            yield os.path.normpath(word)


@pytest.mark.parametrize("name", table())
def test_native_sources_use_each_other_in_no_circle(name: str) -> None:
    """Who wants to understand a file reads only those below it."""
    TopologicalSorter(uses(table()[name])).prepare()


def test_native_sources_that_use_each_other_in_a_circle_are_found(tmp_path: Path) -> None:
    """By a call, a table and a macro alike; an equal name of a file's own is no use."""
    (tmp_path / "all.h").write_text("int a(void);\nint b(int);\nint c(void);\n#define CALL_A a()\n")
    (tmp_path / "a.c").write_text('#include "all.h"\nint a(void)\n{\n    return b(1);\n}\n')
    (tmp_path / "b.c").write_text(
        '#include "all.h"\nint (*const TABLE[])(void) = {c};\nint b(int n)\n{\n    return n;\n}\n'
    )
    (tmp_path / "c.c").write_text('#include "all.h"\nint c(void)\n{\n    return CALL_A;\n}\n')
    (tmp_path / "d.c").write_text(
        "static int a(void)\n{\n    return 0;\n}\nint d(void) { return a(); }\n"
    )
    module = NativeModule("native._all", ("all.h",), ("a.c", "b.c", "c.c", "d.c"))

    graph = uses(module, tmp_path)

    assert graph == {"a.c": {"b.c"}, "b.c": {"c.c"}, "c.c": {"a.c"}, "d.c": set()}
    with pytest.raises(CycleError):
        TopologicalSorter(graph).prepare()


def test_native_sources_all_belong_to_a_module() -> None:
    """A C file that no module lists would be in no order."""
    listed = {source for module in table().values() for source in module.sources}
    there = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.c")
        if not path.name.startswith("_")
    }

    assert there == listed


def test_native_headers_all_belong_to_a_module() -> None:
    """A header that no module lists would change without anything being built again."""
    listed = {header for module in table().values() for header in (*module.headers, *module.uses)}
    there = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.h")
    }

    assert there == listed


@pytest.mark.parametrize("name", table())
def test_native_module_lists_every_header_it_is_compiled_against(name: str) -> None:
    """A header that is not listed could change without the module being built again."""
    module = table()[name]

    assert set(included(module)) == {*module.headers, *module.uses}


def test_native_plane_names_no_device_type() -> None:
    """What every data plane uses knows of none: neither a type's name nor what it deals with."""
    words = re.compile(
        r"blk|vbd|(?<!non)block|disk|sector|image|network|vif|packet|console|9p", re.I
    )
    named = [
        f"{path.name}: {found[0]}"
        for path in sorted((ROOT / "worker/plane").glob("*.*"))
        if path.suffix in (".c", ".h", ".py")
        for found in words.finditer(path.read_text())
    ]

    assert named == []
