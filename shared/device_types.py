# SPDX-License-Identifier: MIT
"""The manifest of a device type: all that others must know of it without loading its code.

A type is a folder with a module that holds its manifest, a `DeviceType`, under an entry point of
the group `xenbackd.devices`; the entry point's name is what `types.<kind>.handler` names in the
configuration. Types of this distribution and of others are found in the same way.

The module of a manifest imports this module and msgspec, and nothing else: the supervisor, the
configuration and the command line import it, and none of them may load device code.
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

from shared.errors import ConfigError
from shared.system_calls import INT, LONG, Argument, Call, Group, ioctls, plain

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "INT",
    "LONG",
    "Argument",
    "Call",
    "Counter",
    "DeviceType",
    "Group",
    "Kind",
    "NoOptions",
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
        "script",
        "hotplug-status",
        "hotplug-error",
        "error",
    }
)
"""Nodes of the toolstack or the supervisor: no type may publish them, whatever it declares."""

RING_NODES: Final = ("ring", "event-channel", "page-ref", "port", "protocol")
"""Beginnings of names that say where a frontend's ring is: of netif, 9pfs, console, fb, kbd and
others. Each may stand below a queue's directory or behind a prefix ("queue-0/rx-ring-ref")."""


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a type that has none."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A directory below `backend/` that a type usually serves, and what else wants it."""

    name: str
    kernel_driver: str = ""
    """Module of Linux that serves the directory when it is loaded."""
    device_model: bool = False
    """libxl starts a device model (QEMU) for the guest and takes it for the directory's server; it
    then neither waits for InitWait nor runs a hotplug script."""
    script: bool = False
    """libxl runs a hotplug script once the backend is in InitWait."""


class Counter(msgspec.Struct, frozen=True):
    """A figure that a worker tells with each beat."""

    name: str
    meaning: str
    """In words, for `xenbackd show`; counters with the same group stand in one line there."""
    group: str = "other"
    scale: int = 0
    """Bytes that one unit of the counter stands for; 0: it does not count bytes."""
    role: Literal["", "read", "written", "bytes", "finished", "pending"] = ""
    """What `status` and the health check take it for. `read` and `written`: requests that were
    carried out, which are finished as well; `bytes`: what they moved; `finished`: other requests
    that are over; `pending`: requests in hand."""


FINISHED_ROLES: Final = frozenset({"read", "written", "finished"})
"""Roles of counters of requests that are over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceType:
    """The manifest. `name` is the entry point's."""

    name: str
    backend: str
    """Where the worker finds the type's code: `package.module:Class`, a `worker.device.Device`."""
    options: type[msgspec.Struct] = NoOptions
    """Model of `types.<kind>.options` in the configuration."""
    kinds: tuple[Kind, ...] = ()
    accepts: Callable[[Mapping[str, bytes]], bool] | None = None
    """Whether a new backend directory is for this type, by its nodes; None: all are. One that is
    not is left to whoever else serves it. Looked at once, when the device would be taken up."""

    # What its workers may have written.
    publishes: tuple[str, ...] = ()
    """Patterns of nodes of the backend directory, besides `COMMON_NODES`."""
    reserved: tuple[str, ...] = ()
    """More nodes of the backend directory that the toolstack owns, besides `RESERVED_NODES`."""

    # Its life.
    ring_nodes: tuple[str, ...] = RING_NODES
    """Beginnings of names of frontend nodes by which one connection is told from another."""
    ignore_frontend_state: bool = False
    """The ring is taken up without waiting for the frontend's `state` (S13)."""
    drain: float = 10.0
    """Seconds a worker has for its orderly end, unless the configuration says otherwise."""
    journals: bool = False
    """Its workers keep what is in flight in a file that outlives them."""

    # What it needs of the kernel.
    needs_grants: bool = True
    """Its workers open a grant-table handle (S6)."""
    system_calls: tuple[Group, ...] = ()
    """What a jailed worker may call besides what every worker may (docs/system-calls.md)."""
    native_modules: tuple[str, ...] = ()
    """Modules in C without which it cannot serve."""
    kernel_features: Mapping[str, str] | None = None
    """Features of the kernel that it is better with (`xenbackd doctor`), and what happens
    without."""

    # For people and for the embedded hypervisor.
    counters: tuple[Counter, ...] = ()
    guest: str = ""
    """Its guest side on the embedded hypervisor: `package.module:ATTRIBUTE`; "" without."""
    guest_modules: tuple[str, ...] = ()
    """Modules in C that only the guest side needs."""

    def may_publish(self, untrusted_name: str) -> bool:
        """Whether a worker of this type may have that node written."""
        if untrusted_name in RESERVED_NODES or untrusted_name in self.reserved:
            return False
        patterns = COMMON_NODES + self.publishes
        return any(_pattern(text).fullmatch(untrusted_name) for text in patterns)

    def names_ring(self, untrusted_name: str) -> bool:
        """Whether that node of the frontend says where its ring is."""
        return bool(_ring_pattern(self.ring_nodes).search(untrusted_name))

    @property
    def backend_module(self) -> str:
        """Module of `backend`."""
        return self.backend.partition(":")[0]


class UnknownTypeError(ConfigError):
    """No such type is installed, or it cannot be used."""


RESOLVED: Final[dict[str, DeviceType]] = {}
"""Manifests by name, each loaded when it is first asked for. Tests put theirs in here."""


def resolve(name: str) -> DeviceType:
    """Find a type by the name that the configuration gives; its manifest is loaded once.

    Raises:
        UnknownTypeError: no such type is installed, it is installed more than once, or its entry
            point leads to no manifest of that name.
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
    """Names of all types that are installed, sorted. Loads none of them."""
    return sorted({point.name for point in _entry_points()})


def own_types() -> list[DeviceType]:
    """The types of this distribution, by name."""
    return [resolve(point.name) for point in sorted(_entry_points(), key=_name) if _is_ours(point)]


def _load(name: str, place: str) -> DeviceType:
    module, _, attribute = place.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # code of somebody else's may raise anything at its import
        cause = f"{type(error).__name__}: {error}"
        raise UnknownTypeError(
            f"device type {name!r}: {place}: cannot be loaded: {cause}"
        ) from error
    if not isinstance(found, DeviceType) or found.name != name:
        raise UnknownTypeError(f"device type {name!r}: {place}: no manifest of that name")
    return found


def _entry_point(name: str) -> EntryPoint:
    found = [point for point in _entry_points() if point.name == name]
    # Nothing that is installed beside us takes the place of a type of ours.
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
    """All entry points; ours from the source tree where the distribution is not installed."""
    # Here, because it is slow to import and most commands do without it.
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
    return re.compile(f"(?:^|[/-])(?:{'|'.join(map(re.escape, beginnings))})")
