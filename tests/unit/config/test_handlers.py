# SPDX-License-Identifier: MIT
"""The configuration loader and device types of other distributions: options, drain, faults."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from config.loader import loads
from config.model import DeviceTimeouts, drain_of
from shared.device_types import Command, Counter, DeviceType, own_types, resolve
from tests.fakes.installed_types import Point, install
from tests.unit.config.test_loader import problems


class StrictOptions(msgspec.Struct, forbid_unknown_fields=True):
    """Options with a rule of their own."""

    even: int = 0

    def __post_init__(self) -> None:
        if self.even % 2:
            raise ValueError("even must be even")


FOREIGN = DeviceType(name="foreign", backend="no_such_module:Device", options=StrictOptions)
OWN = ", ".join(one.name for one in own_types())
MISCOUNTED = DeviceType(
    name="miscounted",
    backend="no_such_module:Device",
    counters=(Counter("answers", "answers", role=cast("Any", "reads")),),
)

OVERDUE = DeviceType(name="overdue", backend="a:B", commands=(Command("set", "", seconds=99),))
MISTYPED = DeviceType(name="mistyped", backend="a:B", commands=("set",))  # type: ignore[arg-type]


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install types: one that is whole, those that are not, each in its way, two of a name."""
    here = f"{__name__}:"
    points = [
        Point("foreign", here + "FOREIGN"),
        Point("bare", here + "StrictOptions"),
        Point("broken", "no_such_module_of_xenbackd:TYPE"),
        Point("exits", "tests.fakes.type_that_exits:TYPE"),
        Point("miscounted", here + "MISCOUNTED"),
        Point("overdue", here + "OVERDUE"),
        Point("mistyped", here + "MISTYPED"),
        Point("twice", "a:b"),
        Point("twice", "c:d"),
    ]
    install(monkeypatch, *points)


@pytest.mark.usefixtures("foreign")
def test_loader_foreign_handler_checks_its_options() -> None:
    """A third-party type's options are held against its model; no device code is loaded."""
    text = "types:\n  x:\n    handler: foreign\n    options:\n      even: 3\n"

    assert problems(text) == ["x.yaml:5: types.x.options: even must be even"]
    assert loads(text.replace("3", "4"), "x.yaml").types["x"].options == {"even": 4}


@pytest.mark.usefixtures("foreign")
@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        ("bare", "device type 'bare': "),
        (
            "broken",
            "device type 'broken': no_such_module_of_xenbackd:TYPE: cannot be loaded:"
            " ModuleNotFoundError: ",
        ),
        (
            "exits",
            "device type 'exits': tests.fakes.type_that_exits:TYPE: cannot be loaded:"
            " SystemExit: 3",
        ),
        ("miscounted", f"device type 'miscounted': {__name__}:MISCOUNTED: counters: Invalid enum"),
        ("overdue", f"device type 'overdue': {__name__}:OVERDUE: commands: set: 99 s: at most 30"),
        ("mistyped", f"device type 'mistyped': {__name__}:MISTYPED: commands: 'str' object"),
        ("twice", "device type 'twice': installed more than once: a:b, c:d"),
        ("forein", f"unknown handler 'forein'; did you mean foreign? allowed: bare, {OWN}"),
    ],
)
def test_loader_unusable_handler_says_why(handler: str, expected: str) -> None:
    """A handler that cannot be used is an error of the line that names it."""
    found = problems(f"types:\n  x:\n    handler: {handler}\n")

    assert [f"x.yaml:3: types.x.handler: {expected}" in line for line in found] == [True], found


@pytest.mark.parametrize(
    ("general", "handler", "expected"),
    [(None, "toy", 30), (None, "foreign", 10), (5.0, "toy", 5), (5.0, "foreign", 5)],
)
@pytest.mark.usefixtures("foreign")
def test_config_drain_is_the_files_or_the_types(
    general: float | None, handler: str, expected: float
) -> None:
    """30 s for a toy, which says so, and 10 for others, where the file says nothing."""
    assert drain_of(DeviceTimeouts(drain=general), resolve(handler).drain) == expected
