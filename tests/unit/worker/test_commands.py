# SPDX-License-Identifier: MIT
"""The worker's end of a command: when it is carried out, and what is answered."""

from __future__ import annotations

import os
from typing import Any, cast

import msgspec
import pytest

from shared import messages as m
from shared import scheduling
from shared.device_id import DeviceId
from shared.device_types import NoOptions
from shared.errors import Blame, ConfigError
from shared.worker_spec import WorkerSpec
from tests.fakes.handles import FakeHandles, make_context
from tests.fakes.toy.about import TYPE, PlayArguments, PlayReply
from worker.bus import Bus
from worker.commands import Commands
from worker.device import Device
from worker.main import live

DEVICE = DeviceId("toy", 3, 51712)


class Player(Device):
    """Plays as the note says."""

    played = 0

    def command(self, name: str, arguments: Any) -> msgspec.Struct | str:
        if name == "wind":
            return super().command(name, arguments)
        assert isinstance(arguments, PlayArguments)
        self.played += 1
        match arguments.note:
            case "fails":
                raise ConfigError("play: no partner")
            case "says":
                return "played"
            case "boasts":
                return PlayReply(1, ["x" * m.COMMAND_REPLY_MAX])
        return PlayReply(arguments.rounds)


class FullBus:
    """Takes messages while it is not full."""

    def __init__(self, *orders: m.ToWorker) -> None:
        self._orders = list(orders)
        self.full = False
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.fileno = os.eventfd(0)

    def receive(self) -> m.ToWorker | None:
        return self._orders.pop(0) if self._orders else None

    def send(self, kind: type[m.Message], **fields: Any) -> None:
        self.said.append((kind.__name__, fields))

    def offer(self, kind: type[m.Message], **fields: Any) -> bool:
        if not self.full:
            self.said.append((kind.__name__, fields))
        return not self.full


@pytest.fixture
def player(handles: FakeHandles) -> Player:
    """A device with commands."""
    return Player(make_context(handles, NoOptions()))


def order(note: str = "", *, name: str = "play", arguments: bytes | None = None) -> m.Command:
    """As the supervisor sends it."""
    encoded = msgspec.msgpack.encode(PlayArguments("chess", 7, note=note))
    return m.Command(
        device=DEVICE,
        generation=1,
        seq=0,
        number=5,
        name=name,
        arguments=encoded if arguments is None else arguments,
    )


def answer_to(player: Player, order: m.Command, *, ready: bool = True) -> dict[str, Any]:
    """The fields of its one answer."""
    bus = FullBus()
    os.close(bus.fileno)
    Commands(player, TYPE.commands, bus).obey(order, ready=ready)
    [(kind, fields)] = bus.said
    assert kind == "CommandAnswer"
    assert fields.pop("number") == 5
    return fields


def test_command_is_answered_by_its_reply(player: Player) -> None:
    """The hook gets an instance of the model, and gives one."""
    fields = answer_to(player, order())
    assert msgspec.msgpack.decode(fields.pop("reply"), type=PlayReply) == PlayReply(7)
    assert fields == {}


@pytest.mark.parametrize(
    ("asked", "blame", "text"),
    [
        (order("fails"), Blame.OPERATOR, "play: no partner"),
        (order("says"), Blame.US, "reply: str instead of PlayReply"),
        (order("boasts"), Blame.US, "at most 3072"),
        (order(name="wind", arguments=b"\x80"), Blame.US, "in the manifest, and not in the code"),
        (order(name="hide"), Blame.OPERATOR, "does not know the command"),
        (order(arguments=b"\x80"), Blame.US, "game"),
    ],
)
def test_command_that_fails_is_answered_with_its_blame(
    player: Player, asked: m.Command, blame: Blame, text: str
) -> None:
    """Whatever is wrong; the worker lives, and so does the device."""
    fields = answer_to(player, asked)
    assert fields["blame"] is blame
    assert text in fields["text"]


def test_command_before_the_device_is_ready_is_refused(player: Player) -> None:
    """Its hook is not called: the jail may not be closed yet."""
    fields = answer_to(player, order(), ready=False)
    assert (fields["blame"], player.played) == (Blame.HOST, 0)


def test_command_answer_that_nobody_takes_waits_without_holding_up_the_ring(
    player: Player,
) -> None:
    """It is offered again, once; a new supervisor, which asked nothing, does not get it."""
    bus = FullBus()
    os.close(bus.fileno)
    commands = Commands(player, TYPE.commands, bus)
    bus.full = True
    commands.obey(order(), ready=True)
    assert bus.said == []
    bus.full = False
    commands.tell()
    commands.tell()
    assert [kind for kind, _ in bus.said] == ["CommandAnswer"]
    bus.full = True
    commands.obey(order(), ready=True)
    commands.forget()
    bus.full = False
    commands.tell()
    assert len(bus.said) == 1


def test_session_obeys_commands_only_while_the_device_is_ready(
    handles: FakeHandles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before `Init` was done, which is when the jail is closed, nor after `Disconnect`."""
    monkeypatch.setattr(scheduling, "shorten_slice", lambda: "")
    head: dict[str, Any] = {"device": DEVICE, "generation": 1, "seq": 0}
    bus = FullBus(
        order(), m.Init(**head, backend={}), order(), m.Disconnect(**head), order(), m.Stop(**head)
    )
    context = make_context(handles, NoOptions())
    spec = WorkerSpec(
        device=context.device,
        generation=1,
        backend_domid=0,
        handler="toy",
        options={},
        endpoint="",
        hypervisor="embedded",
        embedded_dir="",
        supervisor_pid=os.getpid(),
    )
    live(
        spec,
        context.log,
        cast("Bus", bus),
        Player,
        NoOptions(),
        handles,
        commands=TYPE.commands,
    )
    os.close(bus.fileno)
    answers = [fields.get("blame") for kind, fields in bus.said if kind == "CommandAnswer"]
    assert answers == [Blame.HOST, None, Blame.HOST]
