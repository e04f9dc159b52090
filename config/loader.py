# SPDX-License-Identifier: MIT
"""Reads the YAML file into `config.model.Config` and checks all of it.

Either everything is right, or one `ConfigFileError` names every problem with file, line, key and
what is allowed. The loader does not look at the host (the code that uses a directory finds out
whether it exists), so a file can be checked on another machine.

The `restart`, `timeouts` or `jail` section of a type changes single values of the general section
of that name. Values that it leaves out come from the general section.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from config.check import Found, check, join, suggest
from config.errors import ConfigFileError, Problem
from config.model import Config
from config.nodes import SIZE_MAX, Node, compose
from config.rules import broken_rules
from shared.device_types import UnknownTypeError, installed, resolve

TYPE_PATTERN = "[a-z0-9][a-z0-9_]{0,31}"
"""The key of an entry is a directory name below backend/ and part of a device's printed name."""


def load(path: Path) -> Config:
    """Read and check a file.

    Raises:
        ConfigFileError: the file cannot be read, or something in it is wrong.
    """
    name = str(path)
    try:
        with path.open("rb") as file:
            data = file.read(4 * SIZE_MAX + 1)
    except OSError as error:
        raise _whole(name, f"cannot be read: {error.strerror or error}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigFileError([Problem(name, line, "", "not UTF-8 text")]) from error
    return loads(text, name)


def loads(text: str, name: str) -> Config:
    """Check a file's content.

    Args:
        text: the YAML text.
        name: the name of the file, for errors.

    Raises:
        ConfigFileError: something in it is wrong.
    """
    root = compose(text, name)
    found: Found = []
    plain = check(root, Config, "", found)
    if not isinstance(root.value, dict | None):
        raise _located(name, found)
    _check_types(root, found)
    if found:
        raise _located(name, found)
    config = _convert(name, plain)
    found.extend((_line_of(root, key), key, text) for key, text in broken_rules(config))
    if found:
        raise _located(name, found)
    return config


def _convert(name: str, plain: dict[str, Any]) -> Config:
    general = {
        "restart": plain.get("restart", {}),
        "timeouts": {k: v for k, v in plain.get("timeouts", {}).items() if k != "stop"},
        "jail": plain.get("jail", {}),
    }
    for of_type in plain.get("types", {}).values():
        for section, values in general.items():
            if of_type.get(section) is not None:
                of_type[section] = {**values, **of_type[section]}
    try:
        return msgspec.convert(plain, Config)
    except msgspec.ValidationError as error:  # a rule of the model that the walk does not know
        raise _whole(name, str(error)) from error


def _check_types(root: Node, found: Found) -> None:
    for key, node in _entries(root, "types"):
        path = join("types", key)
        if not re.fullmatch(TYPE_PATTERN, key):
            text = "a type is 1 to 32 of the characters a-z, 0-9 and _, and starts with no _"
            found.append((node.line, path, text))
        handler = _child(node, "handler")
        if handler is None or not isinstance(handler.value, str):
            continue  # the walk has reported it
        if handler.value not in (known := installed()):
            text = f"unknown handler {handler.value!r}; {suggest(handler.value, known)}"
            found.append((handler.line, join(path, "handler"), text))
            continue
        try:
            model = resolve(handler.value).options
        except UnknownTypeError as error:
            found.append((handler.line, join(path, "handler"), str(error)))
            continue
        options = _child(node, "options")
        if options is not None and isinstance(options.value, dict | None):
            _check_options(options, model, join(path, "options"), found)


def _check_options(node: Node, model: type[msgspec.Struct], path: str, found: Found) -> None:
    before = len(found)
    plain = check(node, model, path, found)
    if len(found) > before:
        return
    try:
        msgspec.convert(plain, model)
    except msgspec.ValidationError as error:
        found.append((node.line, path, str(error)))


def _entries(node: Node, key: str) -> list[tuple[str, Node]]:
    child = _child(node, key)
    if child is None or not isinstance(child.value, dict):
        return []
    return [(name, entry.node) for name, entry in child.value.items()]


def _child(node: Node, key: str) -> Node | None:
    if not isinstance(node.value, dict) or key not in node.value:
        return None
    return node.value[key].node


def _line_of(root: Node, path: str) -> int:
    """The line of the key; if the file does not have it, of the nearest section above."""
    line, node = root.line, root
    for key in path.split("."):
        if not isinstance(node.value, dict) or key not in node.value:
            break
        entry = node.value[key]
        line, node = entry.line, entry.node
    return line


def _located(name: str, found: Found) -> ConfigFileError:
    return ConfigFileError([Problem(name, line, key, text) for line, key, text in found])


def _whole(name: str, text: str) -> ConfigFileError:
    return ConfigFileError([Problem(name, 0, "", text)])
