# SPDX-License-Identifier: MIT
"""Commands to a device whose worker answers badly or never; the others go on.

A real supervisor with real workers of the type `toy` (tests.fakes.commanded_worker). toy/3/1 is the
device whose worker misbehaves, toy/4/1 its neighbour.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import msgspec
import pytest

from shared import control as c
from supervisor.cli.client import Client, RefusedError
from supervisor.workers.commands import UNANSWERED_MAX
from tests.fakes.waiting import wait_until
from tests.process.daemon_setup import PROGRAM, Setup
from tests.root import ROOT

BAD, NEIGHBOUR = "toy/3/1", "toy/4/1"
COMMANDED = PROGRAM.replace("trivial_worker", "commanded_worker")
INSTALLED = "[xenbackd.devices]\ntoy = tests.fakes.toy.about:TYPE\n"


class CommandedSetup(Setup):
    """Two devices of the type `toy` that are served."""

    kind = handler = "toy"

    def start(self) -> None:
        information = self.directory / "installed" / "toy-1.0.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
        (information / "entry_points.txt").write_text(INSTALLED)
        self.xenstored()
        self.plug(3, 1)
        self.plug(4, 1)
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", COMMANDED, str(self.config)],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": f"{ROOT}:{information.parent}"},
                start_new_session=True,
            )
        self.processes.append(process)
        for device in (BAD, NEIGHBOUR):
            self.wait_phase(device, "serving")

    def play(self, device: str, note: str = "") -> object:
        """Ask by the control socket; the reply."""
        with Client(self.directory, timeout=30) as client:
            request = c.Command(device, "play", {"game": "chess", "note": note})
            return msgspec.json.decode(client.ask(request, c.CommandReply).value)

    def neighbour_goes_on(self) -> None:
        """Its first worker answers, and so does the supervisor."""
        for _ in range(10):
            assert self.play(NEIGHBOUR) == {"won": 1, "names": ["chess"]}
        status = self.wait_phase(NEIGHBOUR, "serving")
        assert (status.generation, status.failures) == (1, 0)

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The command line."""
        return subprocess.run(
            [
                *(sys.executable, "-m", "supervisor.cli.main"),
                *("--run-dir", str(self.directory), "command", *words),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def setup() -> Iterator[CommandedSetup]:
    """A supervisor with both devices."""
    made = CommandedSetup()
    try:
        made.start()
        yield made
    finally:
        made.close()


def test_command_line_lists_and_asks(setup: CommandedSetup) -> None:
    """For people and for machines."""
    listed = setup.command(NEIGHBOUR)
    assert listed.returncode == 0
    assert "play     game=<one of catch, chess>" in listed.stdout
    names = [
        one["name"] for one in json.loads(setup.command(NEIGHBOUR, "--json").stdout)["commands"]
    ]
    assert names == ["play", "wind"]
    played = setup.command(NEIGHBOUR, "play", "game=catch", "rounds=3")
    assert (played.returncode, played.stdout) == (0, 'won    3\nnames  ["catch"]\n')
    played = setup.command(NEIGHBOUR, "play", "game=catch", "--json")
    assert json.loads(played.stdout) == {"won": 1, "names": ["catch"]}


def test_command_line_refusals_say_who_must_act(setup: CommandedSetup) -> None:
    """By the exit code: the operator, for what he typed; nobody, for a device that is not there."""
    for words, text in (
        ((NEIGHBOUR, "plai"), "did you mean play?"),
        ((NEIGHBOUR, "play", "game=go"), "game: expected one of catch, chess, got 'go'"),
        ((NEIGHBOUR, "play", "game=catch", "game=chess"), "more than once"),
        (("toy/9/9", "play"), "there is none of that name"),
    ):
        refused = setup.command(*words)
        assert (refused.returncode, refused.stdout) == (78, "")
        assert text in refused.stderr
    assert setup.command(NEIGHBOUR, "play", "chess").returncode == 2


def test_command_never_answered_holds_up_its_asker_only(setup: CommandedSetup) -> None:
    """As many as may be under way wait; the device is served, its neighbour and others answer."""
    with Client(setup.directory) as client:
        asked, _ = client._connection()
        for _ in range(UNANSWERED_MAX):
            asked.send(c.encode(c.Command(BAD, "wind")))
        with pytest.raises(RefusedError, match="busy"):
            client.ask(c.Command(BAD, "wind"), c.CommandReply)
        setup.neighbour_goes_on()
        assert not asked.poll(0)
    # Who asked has gone away, and the commands are still under way.
    setup.neighbour_goes_on()
    status = setup.wait_phase(BAD, "serving")
    assert (status.generation, status.failures, status.health) == (1, 0, "")
    with Client(setup.directory) as client:
        client.ask(c.Restart(BAD), c.Done)
    setup.wait_phase(BAD, "serving", generation=2)
    assert setup.play(BAD) == {"won": 1, "names": ["chess"]}


def test_command_never_answered_ends_at_its_time_limit(setup: CommandedSetup) -> None:
    """The command line ends with 75, and the device's worker is not touched."""
    before = setup.wait_phase(BAD, "serving")
    ended = setup.command(BAD, "play", "game=chess", "note=never")
    assert (ended.returncode, ended.stdout) == (75, "")
    assert "play: no answer within 2 s" in ended.stderr
    after = setup.wait_phase(BAD, "serving")
    assert (after.pid, after.failures) == (before.pid, before.failures)


@pytest.mark.parametrize(
    ("note", "error"),
    [
        ("garbage", "reply to play"),
        ("twice", "CommandAnswer: not asked for"),
        ("flood", "CommandAnswer: not asked for"),
        ("dies", "exit code 70"),
    ],
)
def test_command_answered_badly_costs_its_own_worker(
    setup: CommandedSetup, note: str, error: str
) -> None:
    """It is ended and replaced; the supervisor and the neighbour go on."""
    before = setup.wait_phase(BAD, "serving")
    if note in ("twice", "flood"):
        assert setup.play(BAD, note) == {"won": 1, "names": ["chess"]}
    else:
        with pytest.raises(RefusedError, match="its worker has ended") as caught:
            setup.play(BAD, note)
        assert caught.value.exit_code == 75
    setup.neighbour_goes_on()
    setup.wait_phase(BAD, "serving", generation=before.generation + 1)
    wait_until(lambda: error in setup.log.read_text(), f"{error} in the log")
    assert setup.play(BAD) == {"won": 1, "names": ["chess"]}
