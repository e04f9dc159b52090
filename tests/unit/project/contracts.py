# SPDX-License-Identifier: MIT
"""Who may import whom: the contracts of every folder, in one place.

An import counts wherever it is in a file, also in a function and below `if TYPE_CHECKING`. Entry
points and the fork server's module names are text and no imports: that is how the supervisor
reaches a worker, and both reach a device type.

`<type>` stands for the name of a device type, the same one throughout a contract.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final, NamedTuple

PRODUCT: Final = ("supervisor", "worker", "embedded", "config", "shared")
OURS: Final = (*PRODUCT, "bench", "tests")


@dataclass(frozen=True, slots=True)
class Contract:
    """What a folder (or file) may import besides itself.

    A folder with a contract of its own is not part of the one above. `others` are the modules of
    others that may be imported besides the standard library; None: any.
    """

    folder: str
    may: tuple[str, ...]
    why: str
    others: tuple[str, ...] | None = None

    def __str__(self) -> str:
        allowed = ", ".join(self.may) or "nothing of ours"
        if self.others is not None:
            allowed += f" and, of others, {', '.join(self.others)}"
        return f"{self.folder} may import {allowed}: {self.why}"


CONTRACTS: Final = (
    Contract("shared", (), "what supervisor and worker must agree on stands on nothing"),
    Contract("config", ("shared.device_types",), "the file's model, and the manifests' class"),
    Contract("embedded", ("shared",), "a hypervisor that knows no device type"),
    Contract("worker", ("shared",), "the framework knows no device type and no supervisor"),
    Contract(
        "worker.devices.<type>",
        ("worker", "worker.devices.<type>.about", "shared"),
        "a device type stands on the framework, and knows no other type",
    ),
    Contract(
        "worker.devices.<type>.about",
        ("shared.device_types",),
        "supervisor and configuration load a manifest without loading device code",
        others=("msgspec",),
    ),
    Contract(
        "worker.devices.<type>.guest",
        ("worker.devices.<type>.about", "embedded", "shared"),
        "the other end of the protocol shares no code with the backend",
    ),
    Contract(
        "supervisor",
        ("shared", "config", "embedded"),
        "it starts workers and never imports them",
    ),
    Contract(
        "supervisor.devicemodel",
        ("shared",),
        "a process per guest that imports little, and knows no supervisor",
    ),
)

LAYERS: Final[Mapping[str, tuple[str, ...]]] = {
    "supervisor": (
        "cli",
        "serve",
        "daemon",
        "parts",
        "upgrade instance predecessors places notify",
        "operator",
        "device",
        "workers",
        "policy | xenstore",
        "events | timer | tasks",
    ),
    "supervisor.workers": ("*", "confinement"),
    "worker": ("devices", "preload", "main", "session", "*", "jail", "native"),
    "embedded": ("*", "xenstored", "starting | protocol | native"),
    "config": ("schema", "loader", "*", "model | errors"),
    "shared": ("ring", "hypervisor | xenstore", "*", "device_id", "errors | limits | native"),
}
"""The parts of a package from top to bottom: no import runs up. Parts of one layer that are
separated by `|` do not import each other. `*` stands for all parts that are not named; without it
every part must be named."""


class Import(NamedTuple):
    """One import statement; `imported` is a module of ours, or the first name of another one."""

    importer: str
    line: int
    imported: str

    def __str__(self) -> str:
        return f"{self.importer}, line {self.line}, imports {self.imported}"


class Imports:
    """All imports of the modules in some packages."""

    def __init__(self, root: Path, packages: tuple[str, ...] = PRODUCT) -> None:
        files = {
            _module(path.relative_to(root)): path
            for package in packages
            for path in sorted((root / package).rglob("*.py"))
        }
        self.modules = frozenset(files)
        found = (
            Import(module, line, self._resolve(parent, name))
            for module, path in files.items()
            for line, parent, name in _statements(path)
        )
        self.all = list(dict.fromkeys(found))

    def _resolve(self, parent: str, name: str) -> str:
        """What `from parent import name` imports: a module below the parent, or the parent."""
        top = parent.partition(".")[0]
        if top not in OURS:
            return top
        below = f"{parent}.{name}"
        return below if below in self.modules else parent

    def forbidden(self) -> list[str]:
        """What breaks a contract."""
        return [
            f"{one}; but {contract}"
            for one in self.all
            for contract, type_ in [_contract_of(one.importer)]
            if not _allows(contract, type_, one.imported)
        ]

    def upward(self, package: str) -> list[str]:
        """What runs up between the parts of a package, or between parts that are kept apart."""
        wrong = []
        for one in self.all:
            above, below = _part(package, one.importer), _part(package, one.imported)
            if above and below and above != below:
                (high, lane), (low, other) = _place(package, above), _place(package, below)
                if high > low or (high == low and lane != other):
                    wrong.append(str(one))
        return wrong

    def unplaced(self, package: str) -> set[str]:
        """Parts of a package that no layer names."""
        parts = {_part(package, module) for module in self.modules}
        return {part for part in parts if part and _place(package, part) == _NOWHERE}

    def circle(self) -> list[str]:
        """Modules of which each imports the next, and the last is the first; [] if none do."""
        graph: dict[str, list[str]] = {module: [] for module in sorted(self.modules)}
        for one in self.all:
            if one.imported in graph:
                graph[one.importer].append(one.imported)
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            return list(reversed(error.args[1]))
        return []


_NOWHERE: Final = (-1, -1)


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _statements(path: Path) -> Iterator[tuple[int, str, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{path}, line {node.lineno}: a relative import"
            yield from ((node.lineno, node.module, alias.name) for alias in node.names)


def _contract_of(module: str) -> tuple[Contract, str]:
    """The contract of a module, which is its deepest folder's, and the device type it is of."""
    found = [
        (contract, match.groupdict().get("type", ""))
        for contract in CONTRACTS
        if (match := _match(contract.folder, module))
    ]
    return max(found, key=lambda one: one[0].folder.count("."))


def _match(folder: str, module: str, type_: str = r"(?P<type>\w+)") -> re.Match[str] | None:
    return re.match(re.escape(folder).replace("<type>", type_) + r"(\.|$)", module)


def _allows(contract: Contract, type_: str, imported: str) -> bool:
    top = imported.partition(".")[0]
    if top not in OURS:
        return contract.others is None or top in {*contract.others, *sys.stdlib_module_names}
    if top not in PRODUCT:
        return False  # a benchmark or a test
    target, target_type = _contract_of(imported)
    if (target, target_type) == (contract, type_):
        return True
    # What is allowed is a folder with a contract, without those in it that have another; or a file.
    return any(
        target.folder == name and target_type in ("", type_)
        if any(one.folder == name for one in CONTRACTS)
        else _match(name, imported, type_)
        for name in contract.may
    )


def _part(package: str, module: str) -> str:
    """The part of a package that a module is in; "" for one that is elsewhere, or stands alone."""
    name = f"{package}.{module[len(package) + 1 :].partition('.')[0]}"
    alone = any(contract.folder == name for contract in CONTRACTS)
    return "" if alone or not module.startswith(package + ".") else name.rpartition(".")[2]


def _place(package: str, part: str) -> tuple[int, int]:
    """Number of a part's layer, from the top, and of its place among those kept apart there."""
    rest = _NOWHERE
    for layer, text in enumerate(LAYERS[package]):
        for lane, names in enumerate(text.split("|")):
            if part in names.split():
                return layer, lane
            if names == "*":
                rest = layer, lane
    return rest
