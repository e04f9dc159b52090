# SPDX-License-Identifier: MIT
"""The manifest of a device type: all that others need to know about it without loading its code.

A device type is a folder. One of its modules holds the manifest, a `DeviceType`, and an entry point
of the group `xenbackd.devices` leads to it. The entry point has the name that
`types.<kind>.handler` uses in the configuration. Types of this distribution and of others are found
in the same way.

The module of a manifest imports this module and msgspec, and nothing else. The supervisor, the
configuration and the command line import it, and none of them may load the code of a device.
docs/writing-devices.md shows a complete type.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from shared.commands import Command, NoArguments, check_commands
from shared.errors import ConfigError
from shared.system_calls import INT, LONG, Argument, Call, Group, ioctls, plain
from shared.traits import USUAL, Traits

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "INT",
    "LONG",
    "Argument",
    "Call",
    "Command",
    "Counter",
    "DeviceType",
    "Group",
    "Kind",
    "NoArguments",
    "NoOptions",
    "Traits",
    "UnknownTypeError",
    "installed",
    "ioctls",
    "load",
    "own_types",
    "place_of",
    "plain",
    "resolve",
]

GROUP: Final = "xenbackd.devices"
DISTRIBUTION: Final = "xenbackd"

COMMON_NODES: Final = ("feature-*", "max-*", "multi-queue-max-queues")
"""Nodes that every type may publish; `*` stands for letters, digits, `-` and `_`."""

RESERVED_NODES: Final = frozenset(
    {
        "state",
        "online",
        "frontend",
        "frontend-id",
        "params",
        "mode",
        "script",
        "hotplug-status",
        "hotplug-error",
        "error",
    }
)
"""Nodes of the toolstack or the supervisor. No type may publish them, even if it declares them."""

RING_NODES: Final = ("ring", "event-channel", "page-ref", "port", "protocol")
"""Names of frontend nodes that say where the ring is begin with one of these: in netif, 9pfs,
console, fb, kbd and others. A queue's directory or a prefix may come before it
("queue-0/rx-ring-ref")."""


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options model of a type without options."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A directory below `backend/` that a type usually serves, and who else would serve it."""

    name: str
    kernel_driver: str = ""
    """Linux module that serves the directory when it is loaded."""
    device_model: bool = False
    """libxl starts a device model (QEMU) for the guest and expects it to serve the directory. libxl
    then neither waits for InitWait nor runs a hotplug script."""
    script: bool = False
    """libxl runs a hotplug script once the backend is in InitWait."""


class Counter(msgspec.Struct, frozen=True):
    """A figure that a worker sends with each beat."""

    name: str
    meaning: str
    """In words, for `xenbackd show`."""
    group: str = "other"
    """`xenbackd show` prints the counters of one group in one line."""
    scale: int = 0
    """Bytes that one unit of the counter stands for; 0: the counter does not count bytes."""
    role: Literal["", "read", "written", "bytes", "finished", "pending"] = ""
    """What the counter means to `status` and to the health check. `read` and `written`: requests
    that were carried out and so are finished; `bytes`: the data they moved; `finished`: other
    requests that are finished; `pending`: requests in hand."""


FINISHED_ROLES: Final = frozenset({"read", "written", "finished"})
"""Roles of counters of finished requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceType:
    """The manifest. `name` is the name of its entry point."""

    name: str
    backend: str
    """The code for the worker: `package.module:Class`, a subclass of `worker.device.Device`."""
    options: type[msgspec.Struct] = NoOptions
    """Model of `types.<kind>.options` in the configuration."""
    kinds: tuple[Kind, ...] = ()
    accepts: Callable[[Mapping[str, bytes]], bool] | None = None
    """Decides by the nodes of a new backend directory whether this type serves it; None: it serves
    all. A directory that it declines is left to another server; it is asked again when anything
    in that directory changes, and no more once the device is found."""

    # The nodes of its devices.
    publishes: tuple[str, ...] = ()
    """Patterns of nodes of the backend directory that its workers may publish, besides
    `COMMON_NODES`."""
    reserved: tuple[str, ...] = ()
    """Nodes of the backend directory that the toolstack owns, besides `RESERVED_NODES`."""

    # Its life.
    ring_nodes: tuple[str, ...] = RING_NODES
    """Beginnings of the names of the frontend nodes that tell one connection from the next."""
    traits: Traits = USUAL
    """How the life of its devices differs from the usual one."""
    traits_of: Callable[[Mapping[str, bytes]], Traits] | None = None
    """Decides by the nodes of a new backend directory how the life of this device differs; None:
    `traits` are those of all. Asked once, when the device is found."""
    drain: float = 10.0
    """Seconds a worker has for its orderly stop, unless the configuration says otherwise."""
    journals: bool = False
    """Its workers keep a record of what is in flight in a file that outlives them."""

    # What it needs from the kernel.
    needs_grants: bool = True
    """Its workers open a grant-table handle (S6)."""
    system_calls: tuple[Group, ...] = ()
    """System calls that a jailed worker may make, besides those of every worker
    (docs/system-calls.md)."""
    native_modules: tuple[str, ...] = ()
    """Modules in C that it cannot serve without."""
    kernel_features: Mapping[str, str] | None = None
    """Optional features of the kernel, each with what happens without it (`xenbackd doctor`)."""

    # For people and for the embedded hypervisor.
    counters: tuple[Counter, ...] = ()
    commands: tuple[Command, ...] = ()
    """What an operator may ask of one device (`xenbackd command`)."""
    guest: str = ""
    """Its guest side on the embedded hypervisor: `package.module:ATTRIBUTE`; "": it has none."""
    guest_modules: tuple[str, ...] = ()
    """Modules in C that only the guest side needs."""

    def may_publish(self, untrusted_name: str) -> bool:
        """Whether workers of this type may publish the node."""
        if untrusted_name in RESERVED_NODES or untrusted_name in self.reserved:
            return False
        patterns = COMMON_NODES + self.publishes
        return any(_pattern(text).fullmatch(untrusted_name) for text in patterns)

    def names_ring(self, untrusted_name: str) -> bool:
        """Whether the frontend node says where the ring is."""
        return bool(_ring_pattern(self.ring_nodes).search(untrusted_name))

    @property
    def backend_module(self) -> str:
        """The module of `backend`."""
        return self.backend.partition(":")[0]


class UnknownTypeError(ConfigError):
    """The device type is not installed or cannot be used."""


RESOLVED: Final[dict[str, DeviceType]] = {}
"""Manifests by name, each loaded when it is first asked for. Tests add theirs here."""


def resolve(name: str) -> DeviceType:
    """Find a device type by the name that the configuration gives; load its manifest once.

    Raises:
        UnknownTypeError: the type is not installed, it is installed more than once, or its entry
            point does not lead to a manifest of that name.
    """
    return RESOLVED[name] if name in RESOLVED else load(name, place_of(name))


def place_of(name: str) -> str:
    """Where a type's manifest is, as its entry point says: `package.module:ATTRIBUTE`.

    "" for one that was put into `RESOLVED` and is not installed.

    Raises:
        UnknownTypeError: no such type is installed, or it is installed more than once.
    """
    if name in RESOLVED and name not in installed():
        return ""
    return _entry_point(name).value


def load(name: str, place: str) -> DeviceType:
    """The manifest at a place that `place_of` gave, loaded once.

    Looking for entry points costs more time and memory than a worker has for it: the supervisor
    looks, and tells its workers the place.

    Raises:
        UnknownTypeError: there is no manifest of that name.
    """
    if name not in RESOLVED:
        RESOLVED[name] = _load(name, place)
    return RESOLVED[name]


def installed() -> list[str]:
    """The names of all installed types, sorted. Loads none of them."""
    return sorted({point.name for point in _entry_points()})


def own_types() -> list[DeviceType]:
    """The types of this distribution, by name."""
    return [resolve(point.name) for point in sorted(_entry_points(), key=_name) if _is_ours(point)]


def _load(name: str, place: str) -> DeviceType:
    module, _, attribute = place.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:
        # Foreign code may raise anything when it is imported.
        cause = f"{type(error).__name__}: {error}"
        raise UnknownTypeError(
            f"device type {name!r}: {place}: cannot be loaded: {cause}"
        ) from error
    if not isinstance(found, DeviceType) or found.name != name:
        raise UnknownTypeError(f"device type {name!r}: {place}: no manifest of that name")
    try:
        # The command line checks them too, and would blame the supervisor.
        msgspec.convert(msgspec.to_builtins(found.counters), tuple[Counter, ...])
    except msgspec.ValidationError as error:
        raise UnknownTypeError(f"device type {name!r}: {place}: counters: {error}") from error
    try:
        check_commands(found.commands)
    except (ValueError, TypeError, AttributeError) as error:  # not even of the class
        raise UnknownTypeError(f"device type {name!r}: {place}: commands: {error}") from error
    return found


def _entry_point(name: str) -> EntryPoint:
    found = [point for point in _entry_points() if point.name == name]
    # No other distribution can replace a type of ours.
    found = [point for point in found if _is_ours(point)][:1] or found
    if not found:
        raise UnknownTypeError(
            f"device type {name!r}: not installed; there is {', '.join(installed()) or 'none'}"
        )
    if len({point.value for point in found}) > 1:
        values = ", ".join(sorted(point.value for point in found))
        raise UnknownTypeError(f"device type {name!r}: installed more than once: {values}")
    return found[0]


@cache
def _entry_points() -> tuple[EntryPoint, ...]:
    """All entry points; ours come from the source tree if the distribution is not installed."""
    # Imported here, because it is slow to import and most commands do without it.
    from importlib.metadata import entry_points

    found = tuple(entry_points(group=GROUP))
    if any(_is_ours(point) for point in found):
        return found
    return (*found, *_of_the_tree())


def _of_the_tree() -> list[EntryPoint]:
    import tomllib
    from importlib.metadata import EntryPoint
    from pathlib import Path

    try:
        with (Path(__file__).parents[1] / "pyproject.toml").open("rb") as file:
            table = tomllib.load(file)["project"]["entry-points"][GROUP]
    except (OSError, KeyError):
        return []
    return [EntryPoint(name, value, GROUP) for name, value in table.items()]


def _is_ours(point: EntryPoint) -> bool:
    return point.dist is None or point.dist.name == DISTRIBUTION


def _name(point: EntryPoint) -> str:
    return point.name


@cache
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(
        "".join("[A-Za-z0-9_-]+" if part == "*" else re.escape(part) for part in text)
    )


@cache
def _ring_pattern(beginnings: tuple[str, ...]) -> re.Pattern[str]:
    if not beginnings:
        return re.compile("(?!)")  # no name, where the one below would be every name
    return re.compile(f"(?:^|[/-])(?:{'|'.join(map(re.escape, beginnings))})")
