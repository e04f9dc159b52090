# SPDX-License-Identifier: MIT
"""Device types that are installed for one test: entry points of another distribution."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from shared import device_types
from shared.device_types import DeviceType


@dataclass(frozen=True)
class Point:
    """An entry point; its module is really imported when the type is loaded, unless `manifest` is
    what would be found there."""

    name: str
    value: str
    manifest: DeviceType | None = None
    dist: Any = field(default_factory=lambda: SimpleNamespace(name="another"))


def install(monkeypatch: pytest.MonkeyPatch, *points: Point) -> None:
    """Have these types besides our own, until the test ends."""
    ours = device_types._entry_points()
    monkeypatch.setattr(device_types, "_entry_points", lambda: (*ours, *points))
    for point in points:
        monkeypatch.delitem(device_types.RESOLVED, point.name, raising=False)
        if point.manifest is not None:
            monkeypatch.setitem(device_types.RESOLVED, point.name, point.manifest)
