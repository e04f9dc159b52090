# SPDX-License-Identifier: MIT
"""Commands of a device type: what an operator may ask of one device, as its manifest declares it.

`xenbackd command DEVICE NAME key=value …` goes through the supervisor and the bus to the worker of
that device, and the reply comes back the same way. Both ends read the same declaration: the
supervisor holds the operator's words against the model of the arguments, and the worker's reply,
which it does not trust, against the model of the reply. So both models are closed: plain values,
no unknown fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

COMMAND_SECONDS_MAX: Final = 30.0
"""Time limit of a command at most: an operator waits for it, and takes a place of the few that
wait at one time."""

_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")


class NoArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The model of a command without arguments."""


@dataclass(frozen=True, slots=True)
class Command:
    """Something that an operator may ask of a device: attach to a console, set a limit, …"""

    name: str
    meaning: str
    """One line, for `xenbackd command DEVICE`."""
    arguments: type[msgspec.Struct] = NoArguments
    """Their model: forbids unknown fields, and each field is one plain value."""
    reply: type[msgspec.Struct] | type[str] = str
    """Model of the reply: forbids unknown fields, and has plain values, lists and mappings of them.
    `str`: one line of text."""
    seconds: float = 5.0
    """Time limit, at most `COMMAND_SECONDS_MAX`; without an answer by then, the operator is told
    that there is none. The device's guest waits for its worker while the worker obeys."""


def check_commands(commands: Iterable[Command]) -> None:
    """Make sure that a manifest's commands can be offered.

    Raises:
        ValueError: one cannot; the text says which, and why.
    """
    names: set[str] = set()
    for one in commands:
        if not _NAME.fullmatch(one.name):
            raise ValueError(f"{one.name!r}: not a name of small letters, digits and -")
        if one.name in names:
            raise ValueError(f"{one.name}: declared more than once")
        if not 0 < one.seconds <= COMMAND_SECONDS_MAX:
            raise ValueError(f"{one.name}: {one.seconds:g} s: at most {COMMAND_SECONDS_MAX:g}")
        names.add(one.name)
        _check_model(one.arguments, f"{one.name}: arguments", flat=True)
        if one.reply is not str:
            _check_model(one.reply, f"{one.name}: reply", flat=False)


def _check_model(model: Any, where: str, *, flat: bool) -> None:
    # Imported here: few types have commands, and a worker does without what uses much.
    from msgspec import inspect

    plain = (
        inspect.BoolType,
        inspect.IntType,
        inspect.FloatType,
        inspect.StrType,
        inspect.LiteralType,
        inspect.NoneType,
    )
    seen: set[type] = set()

    def check_fields(kind: inspect.StructType) -> None:
        if kind.cls in seen:
            return
        seen.add(kind.cls)
        if not kind.forbid_unknown_fields:
            raise ValueError(f"{where}: {kind.cls.__name__}: does not forbid unknown fields")
        for field in kind.fields:
            check(field.type, field.encode_name)

    def check(kind: inspect.Type, name: str) -> None:
        match kind:
            case inspect.Metadata():
                check(kind.type, name)
            case inspect.UnionType():
                for one in kind.types:
                    check(one, name)
            case inspect.StructType() if not flat:
                check_fields(kind)
            case inspect.ListType() | inspect.VarTupleType() if not flat:
                check(kind.item_type, name)
            case inspect.DictType(key_type=inspect.StrType()) if not flat:
                check(kind.value_type, name)
            case _ if not isinstance(kind, plain):
                raise ValueError(f"{where}: {name}: no plain value")

    kind = inspect.type_info(model)
    if not isinstance(kind, inspect.StructType):
        raise ValueError(f"{where}: no msgspec.Struct")
    check_fields(kind)
