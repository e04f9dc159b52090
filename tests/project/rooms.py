# SPDX-License-Identifier: MIT
"""The picture of the import graph in ARCHITECTURE.md: which room imports which.

A room is a folder of modules; a folder `native` belongs to the one above it. In some folders a few
modules lie above the folders below them, or beneath them: `supervisor.events` is used by the wings,
which `supervisor.daemon` uses. Such a folder is drawn as two rooms, and the smaller one is drawn
with the names of its modules. So no room imports itself by way of others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Final

from tests.root import ROOT
from tests.unit.project.contracts import PRODUCT, Imports

_NATIVE: Final = "native"

Arrows = dict[str, frozenset[str]]
"""For each room (or module) those that it imports."""


@cache
def modules() -> Arrows:
    """The product's modules and their imports of each other, wherever in a file they are."""
    found = Imports(ROOT)
    graph: dict[str, set[str]] = {module: set() for module in sorted(found.modules)}
    for one in found.all:
        if one.imported in graph:
            graph[one.importer].add(one.imported)
    return _frozen(graph)


@cache
def arrows() -> Arrows:
    """Every arrow between two rooms."""
    room_of = _rooms(modules())
    graph: dict[str, set[str]] = {room: set() for room in sorted(room_of.values())}
    for module, imported in modules().items():
        room = room_of[module]
        graph[room] |= {room_of[one] for one in imported} - {room}
    return _frozen(graph)


def reachable(graph: Mapping[str, frozenset[str]], start: str) -> frozenset[str]:
    """What `start` imports, itself or by way of others; `start` is among them in a circle."""
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        room = waiting.pop()
        if room not in seen:
            seen.add(room)
            waiting += graph[room]
    return frozenset(seen)


def reduced(graph: Mapping[str, frozenset[str]]) -> Arrows:
    """A graph without circles and without arrows that others imply: `a` to `c` beside `a` to `b`
    to `c`."""
    below = {room: reachable(graph, room) for room in graph}
    return {
        room: frozenset(
            target
            for target in targets
            if not any(target in below[other] for other in targets - {target})
        )
        for room, targets in graph.items()
    }


def markdown() -> str:
    """The reduced graph as a Mermaid block, a box for each package."""
    graph = reduced(arrows())
    drawn = {room for room, targets in graph.items() if targets}.union(*graph.values())
    lines = ["```mermaid", "flowchart TD"]
    for package in PRODUCT:
        rooms = [room for room in graph if room in drawn and _package(room) == package]
        lines.append(f"  subgraph {package}_[{package}]")
        lines += [f'    {_id(room)}["{room}"]' for room in rooms]
        lines.append("  end")
    for room, targets in graph.items():
        lines += [f"  {_id(room)} --> {_id(target)}" for target in sorted(targets)]
    return "\n".join([*lines, "```"]) + "\n"


def _rooms(graph: Arrows) -> dict[str, str]:
    """The room of each module."""
    folders: dict[str, list[str]] = defaultdict(list)
    for module in graph:
        folders[_folder(module, graph)].append(module)
    found: dict[str, str] = {}
    for folder, inside in folders.items():
        for part in _parts(folder, inside, graph):
            whole = len(part) > len(inside) / 2
            names = ", ".join(module.rpartition(".")[2] for module in part)
            found |= dict.fromkeys(part, folder if whole else f"{folder}: {names}")
    return found


def _parts(folder: str, inside: list[str], graph: Arrows) -> Iterable[list[str]]:
    """The modules of a folder: in two parts if folders in it are used by one and use the other."""
    below = {module for module in graph if _folder(module, graph).startswith(folder + "/")}
    above = [module for module in inside if reachable(graph, module) & below]
    rest = [module for module in inside if module not in above]
    used = {one for module in below for one in graph[module]}
    return [above, rest] if above and used & set(rest) else [inside]


def _folder(module: str, graph: Arrows) -> str:
    package = any(other.startswith(module + ".") for other in graph)
    parts = module.split(".") if package else module.split(".")[:-1]
    return "/".join(part for part in parts if part != _NATIVE)


def _package(room: str) -> str:
    return room.partition(":")[0].partition("/")[0]


def _id(room: str) -> str:
    # Mermaid takes letters, digits and "_" in an identifier.
    return "".join(letter if letter.isalnum() else "_" for letter in room)


def _frozen(graph: Mapping[str, set[str]]) -> Arrows:
    return {name: frozenset(imported) for name, imported in graph.items()}
