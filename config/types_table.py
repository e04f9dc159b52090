# SPDX-License-Identifier: MIT
"""The device types for people: `python -m config.types_table` prints them as Markdown.

Everything comes from the manifests (`shared.device_types`). What an option means is the docstring
below its field in the options model.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec
from msgspec.inspect import Field, StructType, type_info

from config.check import describe
from shared.device_types import (
    COMMON_NODES,
    RESERVED_NODES,
    Command,
    Counter,
    DeviceType,
    Kind,
    Traits,
    own_types,
)

_HOTPLUG: Final = {"ours": "the supervisor", "script": "a hotplug script", "none": "nobody"}


def markdown() -> str:
    """One section for each type (docs/device-types.md holds them; a test keeps them equal)."""
    return "\n".join(_section(one) for one in own_types())


def _section(one: DeviceType) -> str:
    kinds = ("kind", "hotplug script", "device model", "waits for InitWait", "kernel driver")
    options = ("option", "value", "default", "meaning")
    counters = ("counter", "meaning", "unit", "shown under", "counts as")
    parts = [
        f"## `{one.name}`\n",
        _table(("what", "of this type"), _traits(one)),
        "### Kinds\n",
        _table(kinds, map(_kind, one.kinds)),
        "### Options\n",
        _table(options, _options(one.options)),
        "### Counters\n",
        _table(counters, map(_counter, one.counters)),
    ]
    if one.commands:
        head = ("command", "arguments", "reply", "time limit", "meaning")
        parts += ["### Commands\n", _table(head, map(_command, one.commands))]
    return "\n".join(parts)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _traits(one: DeviceType) -> Iterator[tuple[str, str]]:
    yield "code of the worker", f"`{one.backend}`"
    yield "guest side on the embedded hypervisor", _code(one.guest)
    yield "new directories it takes", "those its manifest accepts" if one.accepts else "all"
    yield "nodes its workers may publish", _codes(COMMON_NODES + one.publishes)
    yield "nodes nobody may publish", _codes((*sorted(RESERVED_NODES), *one.reserved))
    yield "frontend nodes that name the ring", _codes(f"{name}*" for name in one.ring_nodes)
    yield from _life(one.traits)
    if one.traits_of is not None:
        yield "life of a single device", "its manifest decides by the nodes"
    yield "`timeouts.drain`", f"{one.drain:g} s"
    yield "keeps a journal", _yes(one.journals)
    yield "opens a grant table", _yes(one.needs_grants)
    yield "commands", _codes(command.name for command in one.commands)
    yield "native modules", _codes(one.native_modules)
    yield "native modules of the guest side", _codes(one.guest_modules)
    for feature, without in (one.kernel_features or {}).items():
        yield f"without the kernel's {feature}", without


def _life(traits: Traits) -> Iterator[tuple[str, str]]:
    yield "waits for the frontend's `state`", _yes(not traits.ignore_frontend_state)
    yield "who writes `hotplug-status`", _HOTPLUG[traits.hotplug]
    yield "may reconfigure while connected", _yes(traits.reconfigures)
    yield "a closed frontend may connect again", _yes(traits.returns)


def _kind(kind: Kind) -> tuple[str, ...]:
    model, script = _yes(kind.device_model), _yes(kind.script)
    return f"`{kind.name}`", script, model, _yes(not kind.device_model), _code(kind.kernel_driver)


def _counter(counter: Counter) -> tuple[str, ...]:
    unit = f"{counter.scale} bytes" if counter.scale else "one"
    return f"`{counter.name}`", counter.meaning, unit, counter.group, counter.role


def _command(command: Command) -> tuple[str, ...]:
    arguments = "; ".join(f"{name}: {value}" for name, value, *_ in _options(command.arguments))
    reply = "text" if command.reply is str else describe(type_info(command.reply))
    limit = f"{command.seconds:g} s"
    return f"`{command.name}`", arguments or "none", reply, limit, command.meaning


def _options(model: type[msgspec.Struct]) -> Iterator[tuple[str, ...]]:
    kind = type_info(model)
    assert isinstance(kind, StructType)
    meanings = _meanings(model)
    for field in kind.fields:
        meaning = meanings.get(field.name, "")
        yield f"`{field.encode_name}`", describe(field.type), f"`{_default(field)}`", meaning


def _default(field: Field) -> str:
    value: Any = field.default
    if value is msgspec.NODEFAULT:
        value = [] if field.required else field.default_factory()
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _meanings(model: type[msgspec.Struct]) -> dict[str, str]:
    """What stands as a docstring below each field; there is no other way to it than the source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = " ".join(ast.literal_eval(below.value).split())
    return found


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _code(text: str) -> str:
    return f"`{text}`" if text else "none"


def _codes(texts: Iterable[str]) -> str:
    return ", ".join(f"`{text}`" for text in texts) or "none"


if __name__ == "__main__":
    sys.stdout.write(markdown())
