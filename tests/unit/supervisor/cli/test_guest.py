# SPDX-License-Identifier: MIT
"""`xenbackd guest`: what of it comes from device types."""

from __future__ import annotations

import pytest

from embedded.guest.console import Column
from embedded.guest.control import GuestDevice
from embedded.guest.side import Command, DeviceOption
from shared.errors import ConfigError
from supervisor.cli import guest
from supervisor.cli import main as cli
from supervisor.cli.console import OutputConsole
from tests.fakes.echo.guest import EchoSide
from tests.fakes.installed_types import Point, install


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> None:
    """The type `echo` is installed."""
    install(monkeypatch, Point("echo", "tests.fakes.echo.about:TYPE"))


def help_of(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """What `xenbackd guest … --help` prints."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["guest", *command, "--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


def device(kind: str, **details: object) -> GuestDevice:
    """A device as a guest describes it."""
    return GuestDevice(
        kind=kind,
        name="0",
        devid=0,
        state="Connected",
        backend_state="Connected",
        backend=f"/local/domain/0/backend/{kind}/1/0",
        connected=True,
        error="",
        details=details,
    )


@pytest.mark.usefixtures("echo")
def test_guest_help_has_options_and_commands_of_every_type(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Those of the built-in types and those of another distribution's."""
    create = help_of(capsys, "create")
    assert "--disk DISK" in create
    assert "--echo ECHO" in create
    everything = help_of(capsys)
    for text in ("load a disk", "say something to an echo", "An echo answers in capitals."):
        assert text in everything
    assert "NAME ECHO TEXT" in help_of(capsys, "say")


@pytest.mark.usefixtures("echo")
def test_guest_attach_without_a_device_is_a_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """The error names the options of all types; nothing is looked for."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["guest", "attach", "demo"])
    assert caught.value.code == 2
    assert "is required: --disk, --echo" in capsys.readouterr().err


def test_guest_command_of_two_types_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the one that happens to come first."""

    class Other(EchoSide):
        option = DeviceOption("--other", "OTHER", "")

    monkeypatch.setattr(guest, "guest_sides", lambda: {"vecho": EchoSide(), "vother": Other()})
    with pytest.raises(ConfigError, match="guest say: two device types bring this command"):
        cli.build_parser("guest")


@pytest.mark.parametrize("flag", ["--echo", "--memory"])
def test_guest_option_that_is_taken_is_refused(monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    """By another type or by us."""

    class Other(EchoSide):
        option = DeviceOption(flag, "OTHER", "")

    monkeypatch.setattr(guest, "guest_sides", lambda: {"vecho": EchoSide(), "vother": Other()})
    with pytest.raises(ConfigError, match=f"guest {flag}: of frontends 'vother': it is taken"):
        cli.build_parser("guest")


def test_guest_command_of_a_type_may_not_replace_one_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`destroy` is what it always is."""

    class Bold(EchoSide):
        commands = (Command("destroy", "", lambda parser: None, lambda args, console: 0),)

    monkeypatch.setattr(guest, "guest_sides", lambda: {"vecho": Bold()})
    with pytest.raises(ConfigError, match="guest destroy: two device types"):
        cli.build_parser("guest")


def test_guest_table_has_the_columns_of_the_types_that_are_there() -> None:
    """A device's cells stand below its own type's columns, the others' are empty."""

    class Other(EchoSide):
        kind = "vother"
        columns = (Column("COLOUR"), Column("WEIGHT", right=True))

        def cells(self, device: GuestDevice, console: object) -> list[str]:
            return [device.details["colour"], "7"]

    sides = {"vecho": EchoSide(), "vother": Other()}
    first, second = device("vecho", greeting="hello"), device("vother", colour="red")

    both = guest._present(sides, [first, second])
    assert [column.heading for column in guest._own_columns(both)] == [
        "GREETING",
        "COLOUR",
        "WEIGHT",
    ]
    assert guest._own_cells(both, first) == ["hello", "", ""]
    assert guest._own_cells(both, second) == ["", "red", "7"]
    assert guest._own_columns(guest._present(sides, [second]))[0].heading == "COLOUR"


def test_guest_json_has_a_types_fields_beside_those_of_all() -> None:
    """What all devices have is never hidden by a type's own field."""
    plain = guest._plain(device("vecho", greeting="hello", state="forged"))
    assert (plain["kind"], plain["greeting"], plain["state"]) == ("vecho", "hello", "Connected")
    assert "details" not in plain


def test_console_texts_of_a_type_are_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines, notes and failures go the way of all output: escape sequences are escaped."""
    console = OutputConsole()
    console.lines("a\x1b[2J")
    console.note("b\x1b[2J")
    assert console.fail("c\x1b[2J") == 1
    console.live("no terminal, no line")
    out, err = capsys.readouterr()
    assert out == "a\\x1b[2J\n"
    assert err == "b\\x1b[2J\nxenbackd: c\\x1b[2J\n"
