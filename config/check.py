# SPDX-License-Identifier: MIT
"""Compares YAML nodes with the typed model and reports every deviation with its line.

msgspec converts strictly, but it knows no lines, does not name the keys of a dict and stops at
the first error. So this module walks along the model first and reports each deviation. The
conversion comes after that, and finds only what a model checks by code of its own.

A section, mapping or list with nothing in it (all its lines commented out) counts as absent.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from msgspec import inspect

from config.nodes import Node

_ABSENT: Final = object()
_TRUE_WORDS = frozenset({"yes", "on", "y", "true", "1"})
_FALSE_WORDS = frozenset({"no", "off", "n", "false", "0"})
_SHOWN_MAX: Final = 60
"""Characters of a wrong value repeated in an error."""

Found = list[tuple[int, str, str]]
"""Problems: line, key path, text."""


def check(node: Node, model: type[msgspec.Struct], path: str, found: Found) -> dict[str, Any]:
    """Compare `node` with `model`.

    Args:
        node: a mapping, or a node with nothing in it.
        model: the type its content must have.
        path: the key path of `node`, "" at the top.
        found: problems are appended to it.

    Returns:
        The content in plain dicts, lists and scalars, ready for `msgspec.convert`. Do not use it
        if problems were found.
    """
    value = _value(node, inspect.type_info(model), path, found)
    return {} if value is _ABSENT else value


def join(path: str, key: str) -> str:
    """The key path of a key."""
    return f"{path}.{key}" if path else key


def suggest(word: str, known: Iterable[str]) -> str:
    """Say what is allowed instead of `word`; a similar word is suggested first."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}allowed: {', '.join(names)}" if names else "none is allowed"


def _value(node: Node, kind: inspect.Type, path: str, found: Found) -> Any:
    if isinstance(kind, inspect.Metadata):
        return _value(node, kind.type, path, found)
    if isinstance(kind, inspect.UnionType):
        others = [one for one in kind.types if not isinstance(one, inspect.NoneType)]
        if len(others) < len(kind.types) and node.value is None:
            return None
        return _value(node, others[0], path, found) if len(others) == 1 else node.plain()
    if isinstance(kind, inspect.StructType | inspect.DictType | inspect.ListType):
        return _container(node, kind, path, found)
    if not _fits(node.value, kind):
        _note_misfit(node, kind, path, found)
    return node.plain()


def _container(
    node: Node,
    kind: inspect.StructType | inspect.DictType | inspect.ListType,
    path: str,
    found: Found,
) -> Any:
    if node.value is None:
        node = Node(node.line, [] if isinstance(kind, inspect.ListType) else {})
        if not isinstance(kind, inspect.StructType):
            return _ABSENT
    if isinstance(kind, inspect.ListType) and isinstance(node.value, list):
        items = enumerate(node.value)
        return [_value(item, kind.item_type, f"{path}[{i}]", found) for i, item in items]
    if isinstance(kind, inspect.StructType) and isinstance(node.value, dict):
        return _struct(node, kind, path, found)
    if isinstance(kind, inspect.DictType) and isinstance(node.value, dict):
        return {
            key: value
            for key, entry in node.value.items()
            if (value := _value(entry.node, kind.value_type, join(path, key), found)) is not _ABSENT
        }
    _note_misfit(node, kind, path, found)
    return _ABSENT


def _struct(node: Node, kind: inspect.StructType, path: str, found: Found) -> dict[str, Any]:
    assert isinstance(node.value, dict)
    fields = {field.encode_name: field for field in kind.fields}
    result = {}
    for key, entry in node.value.items():
        if key not in fields:
            if kind.forbid_unknown_fields:
                text = f"unknown key; {suggest(key, fields)}"
                found.append((entry.line, join(path, key), text))
            continue
        value = _value(entry.node, fields[key].type, join(path, key), found)
        if value is not _ABSENT:
            result[key] = value
    for name, field in fields.items():
        if field.required and name not in node.value:
            text = f"missing key {name!r}, {describe(field.type)}"
            found.append((node.line, path, text))
    return result


def _fits(value: Any, kind: inspect.Type) -> bool:
    match kind:
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.IntType():
            return type(value) is int and _in_range(value, kind)
        case inspect.FloatType():
            return type(value) in (int, float) and _in_range(value, kind)
        case inspect.StrType():
            return isinstance(value, str)
        case inspect.LiteralType():
            return any(type(value) is type(one) and value == one for one in kind.values)
        case _:
            return True


def _in_range(value: float, kind: inspect.IntType | inspect.FloatType) -> bool:
    return (
        (kind.ge is None or value >= kind.ge)
        and (kind.gt is None or value > kind.gt)
        and (kind.le is None or value <= kind.le)
        and (kind.lt is None or value < kind.lt)
    )


def _note_misfit(node: Node, kind: inspect.Type, path: str, found: Found) -> None:
    value = node.value
    text = f"expected {describe(kind)}, got {_show(value)}"
    if isinstance(kind, inspect.BoolType) and str(value).lower() in _TRUE_WORDS:
        text += "; write true"
    elif isinstance(kind, inspect.BoolType) and str(value).lower() in _FALSE_WORDS:
        text += "; write false"
    elif isinstance(kind, inspect.StrType) and isinstance(value, int | float):
        text += "; put quotes around it"
    elif isinstance(kind, inspect.LiteralType) and isinstance(value, str):
        close = difflib.get_close_matches(value, [str(one) for one in kind.values], n=1)
        text += f"; did you mean {close[0]}?" if close else ""
    found.append((node.line, path, text))


def _show(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case _:
            shown = repr(value)
            return shown if len(shown) <= _SHOWN_MAX else f"{shown[:_SHOWN_MAX]}…"


def describe(kind: inspect.Type) -> str:
    """Say what a value of this type looks like in the file."""
    match kind:
        case inspect.Metadata():
            return describe(kind.type)
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return f"a whole number{_range(kind)}"
        case inspect.FloatType():
            return f"a number{_range(kind)}"
        case inspect.StrType():
            return "text"
        case inspect.LiteralType():
            return f"one of {', '.join(str(one) for one in kind.values)}"
        case inspect.ListType():
            return f"a list, each item {describe(kind.item_type)}"
        case inspect.StructType():
            names = ", ".join(field.encode_name for field in kind.fields)
            return f"a section with the keys {names}"
        case inspect.DictType():
            return "a mapping"
        case inspect.UnionType():
            return " or ".join(describe(one) for one in kind.types)
        case inspect.NoneType():
            return "null"
        case _:
            return "a value"


def _range(kind: inspect.IntType | inspect.FloatType) -> str:
    parts = []
    if kind.ge is not None:
        parts.append(f"from {kind.ge:g}" if abs(kind.ge) < 1 else f"from {kind.ge}")
    if kind.gt is not None:
        parts.append(f"above {kind.gt}")
    if kind.le is not None:
        parts.append(f"to {kind.le}")
    if kind.lt is not None:
        parts.append(f"below {kind.lt}")
    return f" {' '.join(parts)}" if parts else ""
