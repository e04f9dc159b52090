# SPDX-License-Identifier: MIT
"""Guest sides are found by the manifests of the installed types, and by nothing else."""

from __future__ import annotations

import pytest

from embedded.guest.sides import guest_sides, side_of
from shared.device_types import DeviceType
from shared.errors import ConfigError
from tests.fakes.echo.guest import GUEST
from tests.fakes.installed_types import Point, install


def manifest(name: str, guest: str) -> Point:
    """A type of another distribution with that guest side."""
    return Point(name, "", DeviceType(name=name, backend="", guest=guest))


def test_sides_type_of_another_distribution_stands_beside_our_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the kind of its frontends, as its entry point's manifest says."""
    before = set(guest_sides())
    install(monkeypatch, Point("echo", "tests.fakes.echo.about:TYPE"))
    sides = guest_sides()
    assert set(sides) == before | {"vecho"}
    assert side_of(sides, "vecho") is GUEST


def test_sides_type_without_a_guest_side_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every type can be used on the embedded hypervisor."""
    before = guest_sides()
    install(monkeypatch, manifest("plain", ""))
    assert guest_sides() == before


@pytest.mark.parametrize(
    ("target", "cause"),
    [
        ("tests.fakes.echo.nowhere:GUEST", "ModuleNotFoundError"),
        ("tests.fakes.echo.guest:NOTHING", "AttributeError"),
        ("tests.fakes.echo.guest:KIND", "is no GuestSide"),
    ],
)
def test_sides_target_that_is_none_is_named(
    monkeypatch: pytest.MonkeyPatch, target: str, cause: str
) -> None:
    """The error names the type and what its manifest says."""
    install(monkeypatch, manifest("broken", target))
    with pytest.raises(ConfigError, match=f"guest side: broken: {target}.*{cause}"):
        guest_sides()


def test_sides_two_types_with_frontends_of_one_kind_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A guest could not know whose its device is."""
    target = "tests.fakes.echo.guest:GUEST"
    install(monkeypatch, manifest("one", target), manifest("two", target))
    with pytest.raises(ConfigError, match="two: another type has frontends 'vecho' too"):
        guest_sides()


def test_side_of_unknown_kind_lists_the_known_ones() -> None:
    """The error tells what there is."""
    with pytest.raises(ConfigError, match=r"'vnone': no installed type has it \(there are: vecho"):
        side_of({"vecho": GUEST}, "vnone")
