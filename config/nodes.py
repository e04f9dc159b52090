# SPDX-License-Identifier: MIT
"""Parses YAML text into plain nodes that know their lines.

Only PyYAML's composer is used, never a constructor, so no text can create an object of any class.
The file may use a small, predictable part of YAML 1.2:

- a scalar without quotes is `true`, `false`, `null` (also `~` or nothing), a decimal whole number,
  a decimal fraction, or else text. `yes`, `on`, `010`, `0x1f`, `1_000` and `12:30` are text, so
  they never turn silently into something else;
- anchors, aliases, merge keys and tags are refused, so a short file cannot grow into a huge one;
- a key may appear only once in its mapping; size and depth are bounded.

This module does not know what the keys mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml

from config.errors import ConfigFileError, Problem

SIZE_MAX: Final = 1024 * 1024
"""Most characters of a file. A file written by hand has a few thousand."""

DEPTH_MAX: Final = 32
"""Most mappings and lists inside each other; bounds the recursion here and in PyYAML."""

_BOOLEANS = {"true": True, "false": False}
_NULLS = frozenset({"", "~", "null"})
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})?(?:\.[0-9]{1,18})(?:[eE][-+]?[0-9]{1,2})?")
# No setting needs these, and a NUL in a path would cause an error far from here.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Node:
    """A value and its line.

    `value` is a mapping of key to `Entry`, a list of nodes, or a scalar: str, int, float, bool,
    None.
    """

    line: int
    value: dict[str, Entry] | list[Node] | str | int | float | bool | None

    def plain(self) -> Any:
        """The same value in dicts, lists and scalars, without the lines."""
        if isinstance(self.value, dict):
            return {key: entry.node.plain() for key, entry in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


@dataclass(frozen=True, slots=True)
class Entry:
    """A value in a mapping, with the line of its key."""

    line: int
    node: Node


class _RefusedError(Exception):
    """Valid YAML that we refuse."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


class _Loader(yaml.SafeLoader):
    """PyYAML up to its composer; every plain scalar stays text."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 (as PyYAML wants it)

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuse what we do not accept before anything is built from it."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _RefusedError(
                line,
                "anchors (&name) and aliases (*name) are not allowed; write the value out,"
                " or put quotes around it if it is text",
            )
        if event.tag is not None:
            raise _RefusedError(line, f"tags are not allowed: {event.tag!r}; leave it out")
        self.depth += 1
        if self.depth > DEPTH_MAX:
            raise _RefusedError(line, f"nested deeper than {DEPTH_MAX} levels")
        try:
            node: yaml.Node | None = super().compose_node(parent, index)
        finally:
            self.depth -= 1
        return node


def compose(text: str, name: str) -> Node:
    """Read one YAML document; an empty one is a node with the value None.

    Args:
        text: the file's content.
        name: the name of the file, for errors.

    Raises:
        ConfigFileError: the text is not YAML, or not of the part described above.
    """
    if len(text) > SIZE_MAX:
        raise _error(name, 0, f"larger than {SIZE_MAX} characters: not a configuration file")
    problems: list[Problem] = []
    root = _compose(text, name)
    node = Node(1, None) if root is None else _node(root, "", name, problems)
    if problems:
        raise ConfigFileError(problems)
    return node


def _compose(text: str, name: str) -> yaml.Node | None:
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _error(name, line, f"character {error.character!r} is not allowed") from error
    try:
        return loader.get_single_node()
    except _RefusedError as error:
        raise _error(name, error.line, str(error)) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _error(
            name,
            mark.line + 1 if mark else 0,
            ", ".join(filter(None, ["not valid YAML", error.context, error.problem])),
        ) from error
    except (ValueError, OverflowError) as error:
        # PyYAML lets chr() of "\UFFFFFFFF" through.
        line = loader.get_mark().line + 1
        raise _error(name, line, f"not valid YAML, {error}") from error
    finally:
        loader.dispose()


def _error(name: str, line: int, text: str) -> ConfigFileError:
    return ConfigFileError([Problem(name, line, "", text)])


def _node(node: yaml.Node, path: str, name: str, problems: list[Problem]) -> Node:
    line = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        return Node(line, _mapping(node, path, name, problems))
    if isinstance(node, yaml.SequenceNode):
        items = enumerate(node.value)
        return Node(line, [_node(item, f"{path}[{i}]", name, problems) for i, item in items])
    assert isinstance(node, yaml.ScalarNode)
    if _CONTROL.search(node.value):
        problems.append(Problem(name, line, path, "control characters are not allowed"))
    return Node(line, _scalar(node) if node.style is None else node.value)


def _scalar(node: yaml.ScalarNode) -> str | int | float | bool | None:
    text: str = node.value
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _mapping(
    node: yaml.MappingNode, path: str, name: str, problems: list[Problem]
) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for line, key, value in _pairs(node, path, name, problems):
        below = f"{path}.{key}" if path else key
        entry = Entry(line, _node(value, below, name, problems))
        if key in entries:
            text = f"stands twice; the first is in line {entries[key].line}"
            problems.append(Problem(name, line, below, text))
        else:
            entries[key] = entry
    return entries


def _pairs(
    node: yaml.MappingNode, path: str, name: str, problems: list[Problem]
) -> Iterator[tuple[int, str, yaml.Node]]:
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or not key.value or _CONTROL.search(key.value):
            problems.append(Problem(name, line, path, "a key must be one word"))
        else:
            yield line, key.value, value
