# SPDX-License-Identifier: MIT
"""Commands under way to a worker that is not to be believed, and may never answer."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from shared import messages as m
from shared.errors import BlamedError, ConfigError, GuestFault, HostError
from supervisor.device.device import Device
from supervisor.workers.commands import UNANSWERED_MAX
from tests.fakes.clock_loop import in_clock_loop, pass_time, settle
from tests.fakes.supervisor_world import TOY, World, world_of
from tests.fakes.toy.about import TYPE

PLAY, WIND = TYPE.commands
WON = msgspec.msgpack.encode({"won": 3})


def ask(device: Device) -> asyncio.Task[bytes]:
    """Somebody asks for `play` and waits."""
    return asyncio.get_running_loop().create_task(device.link.commands.ask(PLAY, b"\x80"))


async def asked(world: World) -> tuple[asyncio.Task[bytes], int]:
    """The same, and the number of the command that the worker got."""
    task = ask(world.device())
    await settle()
    order = world.workers.last(TOY, m.Command)
    assert (order.name, order.arguments) == ("play", b"\x80")
    return task, order.number


async def error_of(task: asyncio.Task[bytes]) -> BlamedError:
    """What whoever asked is told instead of a reply."""
    with pytest.raises(BlamedError) as caught:
        await task
    return caught.value


@in_clock_loop
async def test_commands_answer_reaches_who_asked() -> None:
    """As JSON; of two askers each gets the answer to his own, in whatever order they come."""
    world = await world_of()
    await world.serving()
    (first, one), (second, two) = await asked(world), await asked(world)
    world.workers.says(TOY, m.CommandAnswer, number=two, reply=WON)
    world.workers.says(
        TOY, m.CommandAnswer, number=one, reply=msgspec.msgpack.encode({"won": 0, "names": ["x"]})
    )
    assert await second == b'{"won":3,"names":[]}'
    assert await first == b'{"won":0,"names":["x"]}'
    assert world.workers.killed == []


@in_clock_loop
async def test_commands_error_of_the_worker_keeps_its_blame() -> None:
    """And its text is one printable line that says which device said it."""
    world = await world_of()
    await world.serving()
    for blame, kind in ((error.blame, error) for error in (GuestFault, ConfigError, HostError)):
        task, number = await asked(world)
        text = "no\x1b[2J\nxenbackd: all is well"
        world.workers.says(TOY, m.CommandAnswer, number=number, blame=blame, text=text)
        error = await error_of(task)
        assert type(error) is kind
        assert str(error) == f"command: {TOY}: play: no\\x1b[2J\\x0axenbackd: all is well"
    assert world.status().failures == 0


@in_clock_loop
async def test_commands_without_an_answer_end_at_their_time_limit() -> None:
    """Who asked is told; the worker is not ended, and its late answer is no news."""
    world = await world_of()
    await world.serving()
    task, number = await asked(world)
    await pass_time(PLAY.seconds - 0.1)
    assert not task.done()
    await pass_time(0.2)
    assert "play: no answer within 2 s" in str(await error_of(task))
    world.workers.says(TOY, m.CommandAnswer, number=number, reply=WON)
    await settle()
    assert world.workers.killed == world.workers.aborted == []
    assert world.status().phase == "serving"


@in_clock_loop
async def test_commands_given_up_count_until_they_are_answered() -> None:
    """So many in a worker's queue at most; one late answer makes room for one command."""
    world = await world_of()
    await world.serving()
    tasks = [ask(world.device()) for _ in range(UNANSWERED_MAX)]
    await settle()
    number = world.workers.last(TOY, m.Command).number
    assert "busy: 4 commands" in str(await error_of(ask(world.device())))
    await pass_time(PLAY.seconds + 0.1)
    for task in tasks:
        await error_of(task)
    assert isinstance(await error_of(ask(world.device())), HostError)
    world.workers.says(TOY, m.CommandAnswer, number=number, reply=WON)
    task, number = await asked(world)
    world.workers.says(TOY, m.CommandAnswer, number=number, reply=WON)
    assert await task
    assert world.workers.kinds(TOY).count("Command") == UNANSWERED_MAX + 1


@in_clock_loop
async def test_commands_of_who_has_gone_away_are_answered_to_nobody() -> None:
    """He is cancelled; the answer is expected all the same."""
    world = await world_of()
    await world.serving()
    task, number = await asked(world)
    task.cancel()
    await settle()
    world.workers.says(TOY, m.CommandAnswer, number=number, reply=WON)
    await settle()
    assert task.cancelled()
    assert world.workers.killed == []


@in_clock_loop
async def test_commands_under_way_end_with_their_worker() -> None:
    """At once, not at their time limit; its successor owes no answer to them."""
    world = await world_of()
    await world.serving()
    task, number = await asked(world)
    world.workers.exits(TOY, -11)
    assert "its worker has ended" in str(await error_of(task))
    await settle()
    await world.ready()
    world.workers.says(TOY, m.Attached, nodes={})
    await settle()
    assert world.status().phase == "serving"
    world.workers.says(TOY, m.CommandAnswer, number=number, reply=WON)
    await settle()
    assert world.workers.killed == [TOY]


@in_clock_loop
async def test_commands_answered_twice_kill_the_worker() -> None:
    """The second one is an answer that nobody asked for."""
    world = await world_of()
    await world.serving()
    task, number = await asked(world)
    for _ in range(2):
        world.workers.says(TOY, m.CommandAnswer, number=number, reply=WON)
    assert await task
    await settle()
    assert world.workers.killed == [TOY]
    assert "not asked for" in world.status().error


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"\xc1",
        b"\x90",
        b"\xa3won",
        b"\x81\xa3won\xa1x",
        b"\x82\xa3won\x01\xa1x\x01",
        b"\x81\xa5names" + b"\x91" * 3000,
    ],
    ids=lambda reply: reply[:8].hex() or "nothing",
)
@in_clock_loop
async def test_commands_reply_that_its_manifest_does_not_have_kills_the_worker(
    reply: bytes,
) -> None:
    """Garbage, another model, unknown fields: who asked hears that its worker has ended."""
    world = await world_of()
    await world.serving()
    task, number = await asked(world)
    world.workers.says(TOY, m.CommandAnswer, number=number, reply=reply)
    assert "its worker has ended" in str(await error_of(task))
    assert world.workers.killed == [TOY]
    assert "reply to play" in world.status().error


@in_clock_loop
async def test_commands_are_not_sent_to_a_worker_that_does_not_read() -> None:
    """Its queue is full: who asked is told at once, and nothing counts as under way."""
    world = await world_of()
    await world.serving()
    world.workers.full.add(TOY)
    for _ in range(UNANSWERED_MAX + 1):
        assert "does not take messages" in str(await error_of(ask(world.device())))
    world.workers.full.clear()
    task, number = await asked(world)
    world.workers.says(TOY, m.CommandAnswer, number=number, reply=WON)
    assert await task


@in_clock_loop
async def test_commands_of_a_supervisor_that_ended_may_still_be_answered() -> None:
    """By a worker that was adopted, as often as commands could be under way, and no oftener."""
    world = await world_of()
    await world.serving()
    world.device().link._words.inherit(UNANSWERED_MAX)
    for number in range(UNANSWERED_MAX):
        world.workers.says(TOY, m.CommandAnswer, number=number, reply=b"\xc1")
    await settle()
    assert world.workers.killed == []
    world.workers.says(TOY, m.CommandAnswer, number=9, reply=WON)
    await settle()
    assert world.workers.killed == [TOY]
