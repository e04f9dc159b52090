# SPDX-License-Identifier: MIT
"""Commands of the operator: what is refused before a worker is asked, and what reaches it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from shared import messages as m
from shared.device_id import DeviceId
from shared.errors import BlamedError, ConfigError, HostError
from supervisor.operator.commands import COMMANDS_MAX, DeviceCommands, read_arguments
from tests.fakes.clock_loop import in_clock_loop, pass_time, settle
from tests.fakes.supervisor_world import TOY, World, world_of
from tests.fakes.toy.about import TYPE, PlayArguments

PLAY, WIND = TYPE.commands


def ask(commands: DeviceCommands, world: World, device: DeviceId = TOY) -> asyncio.Task[Any]:
    """Somebody asks for `wind`."""
    asking = commands.perform(world.device(device), "wind", {})
    return asyncio.get_running_loop().create_task(asking)


def test_arguments_that_were_typed_become_the_model() -> None:
    """Each text as its field's type says; what was not typed has its default."""
    typed = {"game": "chess", "rounds": "7", "speed": "1.5", "loud": "true", "note": "5"}
    assert read_arguments(PLAY, typed) == PlayArguments("chess", 7, 1.5, loud=True, note="5")
    assert read_arguments(PLAY, {"game": "catch"}) == PlayArguments("catch")


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ({}, "game: missing; one of catch, chess"),
        ({"gam": "chess"}, "gam: unknown argument; did you mean game?"),
        ({"game": "go"}, "game: expected one of catch, chess, got 'go'"),
        ({"game": "chess", "rounds": "0"}, "rounds: expected a whole number from 1, got '0'"),
        ({"game": "chess", "rounds": "1.5"}, "rounds: expected a whole number"),
        ({"game": "chess", "speed": "nan"}, "speed: expected a number, got 'nan'"),
        ({"game": "chess", "speed": "1e999"}, "speed: expected a number, got '1e999'"),
        ({"game": "chess", "loud": "perhaps"}, "loud: expected true or false, got 'perhaps'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(typed: dict[str, str], text: str) -> None:
    """With what is expected, and what may have been meant."""
    with pytest.raises(ConfigError) as caught:
        read_arguments(PLAY, typed)
    assert str(caught.value).startswith(text)


@in_clock_loop
async def test_command_reaches_the_worker_and_its_reply_comes_back() -> None:
    """The arguments as the model, checked; the deed stands among the events."""
    world = await world_of()
    await world.serving()
    commands = DeviceCommands(world.events)
    asking = commands.perform(world.device(), "play", {"game": "catch", "rounds": "2"})
    task = asyncio.get_running_loop().create_task(asking)
    await settle()
    order = world.workers.last(TOY, m.Command)
    played = msgspec.msgpack.decode(order.arguments, type=PlayArguments)
    assert (order.name, played) == ("play", PlayArguments("catch", 2))
    reply = msgspec.msgpack.encode({"won": 1})
    world.workers.says(TOY, m.CommandAnswer, number=order.number, reply=reply)
    assert bytes((await task).value) == b'{"won":1,"names":[]}'
    last = world.events.last(1)[0]
    assert (last.kind, last.text) == ("command", "play, asked for by the operator")


@in_clock_loop
async def test_command_nobody_declared_is_refused_with_a_proposal() -> None:
    """Nothing is sent."""
    world = await world_of()
    await world.serving()
    with pytest.raises(ConfigError, match=r"wnd: unknown command; did you mean wind\?"):
        await DeviceCommands(world.events).perform(world.device(), "wnd", {})
    assert "Command" not in world.workers.kinds(TOY)


@in_clock_loop
async def test_command_of_a_device_that_is_not_ready_is_refused() -> None:
    """Before `Initialised`, when the jail is not closed, and while a worker gives its ring back."""
    world = await world_of()
    commands = DeviceCommands(world.events)
    world.plug()
    await settle()
    with pytest.raises(HostError, match="its worker is starting"):
        await commands.perform(world.device(), "wind", {})
    await world.ready()
    task = ask(commands, world)
    await settle()
    number = world.workers.last(TOY, m.Command).number
    world.workers.says(TOY, m.CommandAnswer, number=number, reply=b"\xa0")
    await task
    world.device().replace_worker()
    await settle()
    with pytest.raises(HostError, match="its worker is stopping"):
        await commands.perform(world.device(), "wind", {})


@in_clock_loop
async def test_commands_leave_half_of_the_requests_to_others() -> None:
    """Workers that never answer, however many, take no more; their places come back in time."""
    world = await world_of()
    commands = DeviceCommands(world.events)
    devices = [DeviceId("toy", domid, 1) for domid in range(3, 4 + COMMANDS_MAX // 4)]
    for device in devices:
        await world.serving(device)
    tasks = [ask(commands, world, device) for device in devices[:-1] for _ in range(4)]
    await settle()
    with pytest.raises(HostError, match="busy: 32 commands are under way"):
        await ask(commands, world, devices[-1])
    await pass_time(WIND.seconds + 0.1)
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(error, BlamedError) for error in ended)
    task = ask(commands, world, devices[-1])
    await settle()
    number = world.workers.last(devices[-1], m.Command).number
    world.workers.says(devices[-1], m.CommandAnswer, number=number, reply=b"\xa0")
    await task


@in_clock_loop
async def test_commands_of_a_device_are_those_of_its_manifest() -> None:
    """Name, meaning, arguments and time limit."""
    world = await world_of()
    world.plug()
    await settle()
    about = DeviceCommands(world.events).about(world.device())
    assert (about.handler, [one.name for one in about.commands]) == ("toy", ["play", "wind"])
    play = about.commands[0]
    assert (play.meaning, play.seconds) == ("play a game", 2.0)
    assert [one.name for one in play.arguments if one.required] == ["game"]
