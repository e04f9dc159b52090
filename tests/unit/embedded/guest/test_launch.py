# SPDX-License-Identifier: MIT
"""Which device of a guest a name means, when devices of several types are attached."""

from __future__ import annotations

import pytest

from embedded.guest.launch import identify
from embedded.toolstack import Attached
from shared.errors import ConfigError, HostError
from tests.fakes.installed_types import Point, install

ATTACHED = [
    Attached("toy", 0, "/local/domain/0/backend/toy/1/0"),
    Attached("toy", 3, "/local/domain/0/backend/toy/1/3"),
    Attached("vecho", 3, "/local/domain/0/backend/vecho/1/3"),
    Attached("vecho", 4, "/local/domain/0/backend/vecho/1/4"),
]


@pytest.fixture(autouse=True)
def _echo(monkeypatch: pytest.MonkeyPatch) -> None:
    """The type `echo` is installed."""
    install(monkeypatch, Point("echo", "tests.fakes.echo.about:TYPE"))


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("toya", ("toy", 0)),
        ("0", ("toy", 0)),
        ("toy/toya", ("toy", 0)),
        ("4", ("vecho", 4)),
        ("toy/3", ("toy", 3)),
        ("vecho/3", ("vecho", 3)),
    ],
)
def test_identify_names_and_numbers_of_any_type(name: str, device: tuple[str, int]) -> None:
    """As each type writes them, with the kind before it or without."""
    assert identify(name, ATTACHED) == device


def test_identify_number_of_two_devices_asks_which() -> None:
    """The error says how to name each of them."""
    with pytest.raises(ConfigError, match="more than one: say toy/3 or vecho/3"):
        identify("3", ATTACHED)


def test_identify_name_that_no_type_has_is_the_callers_mistake() -> None:
    """Nor a kind that no type has."""
    with pytest.raises(ConfigError, match="no device type has such a name"):
        identify("hello", ATTACHED)
    with pytest.raises(ConfigError, match="'vnone': no installed type has it"):
        identify("vnone/3", ATTACHED)


def test_identify_device_that_is_not_attached_is_said() -> None:
    """A name that is possible, and not there."""
    with pytest.raises(HostError, match="detach device: toyb: the guest has no such device"):
        identify("toyb", ATTACHED)
