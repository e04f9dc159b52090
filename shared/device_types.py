# SPDX-License-Identifier: MIT
"""What the supervisor must know of a device type's handler, without importing it.

A handler is named in the configuration (`types.<type>.handler`) and lives in the worker. Four
things about it matter before it is imported: where the worker finds it, whether its life cycle
waits for the frontend, which nodes it may publish, and what more than any worker it may ask of the
kernel. For the handlers of this distribution they stand in a table here; a third-party handler
brings them as a `HandlerInfo` of the same name in the entry-point group `xenbackd.devices.info`,
from a module that should import nothing else.

Does not import a handler: that would load device code, and what it links, into the supervisor.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from shared.errors import ConfigError

GROUP: Final = "xenbackd.devices"
INFO_GROUP: Final = "xenbackd.devices.info"

COMMON_NODES: Final = (
    "feature-*",
    "discard-*",
    "max-*",
    "multi-queue-max-queues",
    "sectors",
    "sector-size",
    "physical-sector-size",
    "info",
)
"""Nodes any handler may publish; `*` stands for letters, digits, `-` and `_`."""

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
"""Nodes of the toolstack's or the supervisor's: no handler may have them, whatever it declares."""


@dataclass(frozen=True, slots=True)
class HandlerInfo:
    """What a handler says of itself.

    `module` is `package.module:Class`; `publishes` adds patterns to `COMMON_NODES`. `system_calls`
    adds names to what a jailed worker may call (docs/system-calls.md), whatever their arguments;
    the handlers of this distribution have lists with rules instead (worker.jail.allowed).
    """

    module: str
    ignore_frontend_state: bool = False
    publishes: tuple[str, ...] = ()
    system_calls: tuple[str, ...] = ()

    def may_publish(self, untrusted_name: str) -> bool:
        """Whether a worker of this handler may have that node written."""
        if untrusted_name in RESERVED_NODES:
            return False
        patterns = COMMON_NODES + self.publishes
        return any(_pattern(text).fullmatch(untrusted_name) for text in patterns)


BUILT_IN: Final = {"block": HandlerInfo(module="worker.devices.block.backend:BlockDevice")}

_patterns: dict[str, re.Pattern[str]] = {}


def _pattern(text: str) -> re.Pattern[str]:
    if text not in _patterns:
        _patterns[text] = re.compile(
            "".join("[A-Za-z0-9_-]+" if part == "*" else re.escape(part) for part in text)
        )
    return _patterns[text]


def resolve(name: str) -> HandlerInfo:
    """Find a handler by the name the configuration gives.

    Raises:
        ConfigError: no such handler is installed, or what it says of itself is no `HandlerInfo`.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    target = _entry_point(GROUP, name)
    if target is None:
        installed = sorted(BUILT_IN.keys() | {point.name for point in entry_points(group=GROUP)})
        raise ConfigError(
            f"device handler: {name!r}: not installed; there is {', '.join(installed)}"
        )
    info_point = _entry_point(INFO_GROUP, name)
    if info_point is None:
        return HandlerInfo(module=target.value)
    try:
        info = info_point.load()
    except Exception as error:
        raise ConfigError(f"device handler: {name!r}: {info_point.value}: {error!r}") from error
    if not isinstance(info, HandlerInfo):
        raise ConfigError(f"device handler: {name!r}: {info_point.value} is no HandlerInfo")
    return info


def _entry_point(group: str, name: str) -> EntryPoint | None:
    return next(iter(entry_points(group=group, name=name)), None)
