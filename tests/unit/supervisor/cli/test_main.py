# SPDX-License-Identifier: MIT
"""The command line: finding commands and directories, turning errors into exit codes."""

from __future__ import annotations

import argparse
import os
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from config.loader import load
from config.model import Config
from shared import errors
from supervisor.cli import main as cli
from supervisor.cli import settings
from supervisor.cli.client import RefusedError, UnavailableError
from supervisor.cli.commands import COMMANDS


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the caller's environment decides where we look."""
    monkeypatch.delenv(settings.RUN_DIR_VARIABLE, raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)


@pytest.mark.parametrize(
    ("expected", "arguments"),
    [
        (None, []),
        (None, ["--help"]),
        ("status", ["status", "--json"]),
        ("status", ["--run-dir", "show", "status"]),
        ("serve", ["-c", "x", "--run-dir=y", "serve"]),
        (None, ["--run-dir"]),
    ],
)
def test_command_in_finds_the_first_that_is_no_option(
    expected: str | None, arguments: Sequence[str]
) -> None:
    """Values of options are not taken for the command."""
    assert expected == cli.command_in(arguments)


def parse(*arguments: str) -> argparse.Namespace:
    """Parse and resolve."""
    args = cli.build_parser(cli.command_in(arguments)).parse_args(arguments)
    settings.resolve(args)
    return args


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"guest"}))
def test_command_help_teaches_with_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each command explains itself and shows how it is called."""
    with pytest.raises(SystemExit) as caught:
        cli.main([name, "--help"])

    assert caught.value.code == 0
    usage, _, rest = capsys.readouterr().out.partition("options:")
    assert usage.startswith(f"usage: xenbackd {name} ")
    assert f"  xenbackd {name}" in rest or f"xb {name} " in rest


def test_help_names_commands_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """`xenbackd --help` lists every command, and every exit code of the error classes."""
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = capsys.readouterr().out

    for name in COMMANDS:
        assert f"    {name} " in text
    for kind in (errors.GuestFault, errors.ConfigError, errors.HostError, errors.BackendBug):
        assert f"\n  {kind.exit_code}  " in text


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["show"], ["show", "x"], ["status", "--jso"], ["events", "-n", "-1"]],
)
def test_main_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    """argparse says what is wrong; options are not abbreviated."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)

    assert caught.value.code == 2


def test_main_without_a_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    """A newcomer who types the name alone learns what there is."""
    assert cli.main([]) == 2
    assert "commands:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("expected", "error"),
    [
        (76, errors.GuestFault("a")),
        (78, errors.ConfigError("a")),
        (75, errors.HostError("a")),
        (70, errors.BackendBug("a")),
        (69, UnavailableError("a", "b")),
        (75, RefusedError("a", 75)),
        (130, KeyboardInterrupt()),
    ],
)
def test_main_error_gives_its_exit_code(
    expected: int,
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The class of an error decides the exit code."""

    def add_parser(subparsers: Any) -> None:
        subparsers.add_parser("status").set_defaults(run=run)

    def run(_args: argparse.Namespace) -> int:
        raise error

    fake = types.SimpleNamespace(add_parser=add_parser)
    monkeypatch.setitem(sys.modules, "supervisor.cli.status", fake)

    assert expected == cli.main(["status"])
    assert isinstance(error, KeyboardInterrupt) or "xenbackd: a\n" in capsys.readouterr().err


@pytest.mark.parametrize("before", [True, False])
def test_run_dir_may_stand_on_both_sides_of_the_command(before: bool) -> None:
    """Options of all commands are understood before and after the name."""
    option = ["--run-dir", "/a"]
    args = parse(*option, "status") if before else parse("status", *option)

    assert (Path("/a"), Path("/a/embedded")) == (args.run_dir, args.embedded_dir)


def test_run_dir_follows_the_documented_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Command line, environment, configuration, root's directory, the user's."""
    file = tmp_path / "x.yaml"
    file.write_text("runtime_dir: /of/file\nembedded_dir: /of/embedded\n")
    config = ["-c", str(file)]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert parse("status").run_dir == Path("/run/xenbackd")
    assert parse("status", *config).run_dir == Path("/of/file")
    assert parse("status", *config).embedded_dir == Path("/of/embedded")
    assert parse("status", *config, "--embedded-dir", "/e").embedded_dir == Path("/e")

    monkeypatch.setenv(settings.RUN_DIR_VARIABLE, "/of/environment")
    assert parse("status", *config).run_dir == Path("/of/environment")
    assert parse("status", *config, "--run-dir", "/of/line").run_dir == Path("/of/line")


def test_run_dir_of_a_normal_user_is_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who cannot write /run gets a directory of their own, also where the file says the default."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert parse("status").run_dir == Path("/tmp/xenbackd-1000")

    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    file = tmp_path / "x.yaml"
    file.write_text("")
    assert parse("status", "-c", str(file)).run_dir == Path("/run/user/1000/xenbackd")


def test_main_broken_configuration_ends_with_78_and_names_every_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error of the file becomes one of the operator's, each problem in its line."""
    file = tmp_path / "x.yaml"
    file.write_text("foo: 1\nlog: {level: 7}\n")

    assert cli.main(["check-config", str(file)]) == 78
    text = capsys.readouterr().err
    assert f"xenbackd: {file}:1: foo: unknown key" in text
    assert f"          {file}:2: log.level: expected one of" in text


def test_check_config_without_types_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that would serve nothing is valid, and one is told."""
    file = tmp_path / "x.yaml"
    file.write_text("")

    assert cli.main(["check-config", str(file)]) == 0
    assert "no type is enabled" in capsys.readouterr().out


Served = tuple[Config, Path, Callable[[Config], Config], bool]


def served(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Served:
    """What `serve` hands to the daemon."""
    calls: list[Served] = []

    def fake(
        config: Config, path: Path, override: Callable[[Config], Config], embedded: bool
    ) -> int:
        calls.append((config, path, override, embedded))
        return 7

    monkeypatch.setitem(sys.modules, "supervisor.serve", types.SimpleNamespace(serve=fake))
    assert cli.main(arguments) == 7
    return calls[0]


def test_serve_hands_the_effective_configuration_to_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Command line over file; `--embedded` means the embedded hypervisor."""
    file = tmp_path / "x.yaml"
    file.write_text("types: {toy: {handler: toy}}\n")
    config, path, override, embedded = served(
        monkeypatch, "--run-dir", "/r", "serve", "-c", str(file), "--embedded"
    )

    assert (file, True) == (path, embedded)
    assert (
        config.runtime_dir,
        config.embedded_dir,
        config.hypervisor,
    ) == ("/r", None, "embedded")
    assert list(config.types) == ["toy"]
    # What a reload reads goes the same way, or it would tell of differences that are none.
    assert config == override(load(file))


def test_serve_embedded_dir_of_the_command_line_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that is not the default one reaches the daemon."""
    file = tmp_path / "x.yaml"
    file.write_text("")
    config, _, _, embedded = served(
        monkeypatch, "serve", "-c", str(file), "--run-dir", "/r", "--embedded-dir", "/e"
    )

    assert (config.embedded_dir, config.hypervisor, embedded) == ("/e", "auto", False)


def test_serve_without_a_file_uses_the_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`xenbackd serve` alone reads the file in /etc, its directories included."""
    file = tmp_path / "x.yaml"
    file.write_text("runtime_dir: /of/file\n")
    monkeypatch.setattr(settings, "SYSTEM_CONFIG", file)
    config, path, _, _ = served(monkeypatch, "serve")

    assert (file, "/of/file") == (path, config.runtime_dir)


def test_embedded_runs_the_host_in_its_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--dir` goes before the default below the runtime directory."""
    seen: list[Path] = []

    def fake(directory: Path) -> int:
        seen.append(directory)
        return 0

    monkeypatch.setitem(sys.modules, "embedded.host", types.SimpleNamespace(run=fake))
    cli.main(["--run-dir", "/r", "embedded"])
    cli.main(["--run-dir", "/r", "embedded", "--dir", "/d"])

    assert seen == [Path("/r/embedded"), Path("/d")]
