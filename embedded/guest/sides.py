# SPDX-License-Identifier: MIT
"""Finds the guest sides of the installed device types, by what their manifests name."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from embedded.guest.side import GuestSide
from shared.device_types import installed, resolve
from shared.errors import ConfigError


def guest_sides() -> dict[str, GuestSide]:
    """The sides by the kind of their frontends.

    Raises:
        ConfigError: what a manifest names cannot be imported or is no guest side, or two types
            have frontends of the same kind.
    """
    sides: dict[str, GuestSide] = {}
    for name, target in _named():
        side = _load(name, target)
        if side.kind in sides:
            raise ConfigError(f"guest side: {name}: another type has frontends {side.kind!r} too")
        sides[side.kind] = side
    return sides


def side_of(sides: dict[str, GuestSide], kind: str) -> GuestSide:
    """The side of a kind; raises ConfigError if no installed type has it."""
    if kind not in sides:
        known = ", ".join(sorted(sides)) or "none"
        raise ConfigError(f"device kind {kind!r}: no installed type has it (there are: {known})")
    return sides[kind]


def _load(name: str, target: str) -> GuestSide:
    module, _, attribute = target.partition(":")
    try:
        side = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise ConfigError(f"guest side: {name}: {target}: {error!r}") from error
    if not isinstance(side, GuestSide):
        raise ConfigError(f"guest side: {name}: {target} is no GuestSide")
    return side


def _named() -> Iterator[tuple[str, str]]:
    """Type and target of each manifest that names a guest side."""
    for name in installed():
        if target := resolve(name).guest:
            yield name, target
