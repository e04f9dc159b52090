# SPDX-License-Identifier: MIT
"""What holds for all tests without a process: the type `toy` is installed."""

from __future__ import annotations

import pytest

from tests.fakes.installed_types import Point, install
from tests.fakes.toy.about import TYPE


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The framework's tests serve a type that stands for no real device."""
    install(monkeypatch, Point(TYPE.name, "tests.fakes.toy.about:TYPE", TYPE))
