# SPDX-License-Identifier: MIT
"""Device types that are installed for one test: entry points of another distribution."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from shared import device_types


@dataclass(frozen=True)
class Point:
    """An entry point of another distribution; without `loads` its module is really imported."""

    name: str
    value: str
    loads: Any
    dist: Any = field(default_factory=lambda: SimpleNamespace(name="another"))

    def load(self) -> Any:
        """What the place holds."""
        module, _, attribute = self.value.partition(":")
        if self.loads is not None:
            return self.loads
        return getattr(importlib.import_module(module), attribute)


def install(monkeypatch: pytest.MonkeyPatch, *points: Point) -> None:
    """Have these types besides our own, until the test ends."""
    ours = device_types._entry_points()
    monkeypatch.setattr(device_types, "_entry_points", lambda: (*ours, *points))
    for point in points:
        monkeypatch.delitem(device_types.RESOLVED, point.name, raising=False)
