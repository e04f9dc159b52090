# SPDX-License-Identifier: MIT
"""What a device makes of its worker's words, when the worker is not to be believed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from shared import lifecycle_types as t
from shared import messages as m
from shared.device_types import resolve
from shared.errors import BackendBug, Blame
from shared.limits import PUBLISHED_NODES_MAX
from supervisor.workers.words import FAILURES_HEARD, Answer, Failure, Renewal, Words
from tests.fakes.clock_loop import in_clock_loop, settle
from tests.fakes.supervisor_world import ERROR, TOY, world_of


@in_clock_loop
async def test_link_publish_while_nothing_is_served_is_not_written() -> None:
    """Not before the ring runs, also where the backend is Connected, nor while it is given back."""
    world = await world_of()
    world.plug()
    await settle()
    await world.ready()
    publish = {"nodes": {"size": b"99"}, "rewrite_state": True}
    world.workers.says(TOY, m.Publish, **publish)
    world.frontend(3)
    await settle()
    world.workers.says(TOY, m.Publish, **publish)
    world.workers.says(TOY, m.Attached, nodes={"size": b"8"})
    await settle()
    world.frontend(4)
    await settle()
    world.workers.exits(TOY, -11)
    await settle()
    world.workers.says(TOY, m.Hello)
    await settle()
    world.workers.says(TOY, m.Publish, **publish)
    world.workers.says(TOY, m.Initialised, nodes={})
    await settle()
    world.workers.says(TOY, m.Attached, nodes={})
    await settle()
    world.frontend(6)
    await settle()
    assert world.workers.kinds(TOY)[-1] == "Disconnect"
    world.workers.says(TOY, m.Publish, **publish)
    await settle()
    assert world.workers.killed == []
    assert world.store.nodes[f"{world.back()}/size"] == b"8"


@in_clock_loop
async def test_link_more_nodes_than_a_worker_may_have_kill_it() -> None:
    """Allowed names are not without number: each is memory of xenstored."""
    world = await world_of()
    await world.serving()
    for number in range(PUBLISHED_NODES_MAX):
        world.workers.says(TOY, m.Publish, nodes={f"feature-{number}": b""})
    await settle()
    assert world.workers.killed == [TOY]
    written = [path for path in world.store.nodes if path.startswith(f"{world.back()}/feature-")]
    assert len(written) <= PUBLISHED_NODES_MAX


@pytest.mark.parametrize(
    "words",
    [
        (m.Hello, {}),
        (m.Initialised, {"nodes": {}}),
        (m.Attached, {"nodes": {}}),
        (m.Disconnected, {}),
        (m.Renew, {}),
    ],
    ids=lambda words: words[0].__name__,
)
@in_clock_loop
async def test_link_answer_nobody_asked_for_kills_the_worker(words: tuple[Any, Any]) -> None:
    """Whatever it answers while it serves: no state is written because of it."""
    world = await world_of()
    await world.serving()
    kind, fields = words
    world.workers.says(TOY, kind, **fields)
    await settle()
    assert world.workers.killed == [TOY]
    assert "not asked for" in world.status().error
    assert world.state() == b"4"


@in_clock_loop
async def test_link_words_of_a_worker_stay_one_printable_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither the log nor xenstore nor `status` repeats what a terminal would act on."""
    world = await world_of()
    await world.serving()
    text = "ring\x1b[2J\n2026-01-01 12:00:00.000 INFO toy/9/1: all is well\r\u202e" + "\x07" * 900
    world.workers.says(TOY, m.Failed, stage="serve", blame=Blame.HOST, text=text)
    await settle()
    for shown in (world.status().error, world.store.nodes[ERROR].decode(), *caplog.messages):
        assert shown.isprintable()
        assert len(shown) <= 1100
    assert "\\x1b[2J\\x0a2026" in world.status().error


@in_clock_loop
async def test_link_worker_that_fails_without_end_is_heard_a_few_times(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is to end, and until it is dead it cannot fill the log or the event stream."""
    world = await world_of()
    await world.serving()
    for number in range(200):
        text = f"host: {number}"
        world.workers.says(TOY, m.Failed, stage="serve", blame=Blame.US, text=text)
    await settle()
    assert len([one for one in caplog.messages if "host: " in one]) == FAILURES_HEARD
    assert world.workers.kinds(TOY)[-1] == "Stop"


def words() -> Words:
    """Of a worker that has just been started."""
    return Words(TOY, resolve("toy"))


def message(kind: Callable[..., m.FromWorker], **fields: Any) -> m.FromWorker:
    """As the bus hands it out."""
    return kind(device=TOY, generation=1, seq=0, **fields)


def test_words_answer_carries_its_event_and_its_nodes() -> None:
    """All that the device must know of an answer is in one word."""
    nodes = {"size": b"8"}
    word = words().check(message(m.Attached, nodes=nodes))
    assert word == Answer(t.WorkerAttached(), nodes)


def test_words_failure_that_nobody_heard_comes_with_present() -> None:
    """An adopted worker that failed gives no answer but a failure."""
    present = message(
        m.Present, phase="idle", greeted=False, nodes={}, stage="serve", text="ring: torn"
    )
    assert words().check(present) == Failure(Blame.US, "ring: torn", "serve")


def test_words_renewal_is_an_answer_to_init_only() -> None:
    """Before `Init` and after its answer it is no word of an honest worker."""
    heard = words()
    with pytest.raises(BackendBug, match="not asked for"):
        heard.check(message(m.Renew))
    heard.asked(m.Init)
    assert heard.check(message(m.Renew)) == Renewal()
    heard.check(message(m.Initialised, nodes={}))
    with pytest.raises(BackendBug, match="not asked for"):
        heard.check(message(m.Renew))


def test_words_of_another_worker_begin_with_nothing_said() -> None:
    """Neither names nor failures of its predecessor count against it."""
    heard = words()
    names = [f"feature-{number}" for number in range(PUBLISHED_NODES_MAX)]
    heard.check(message(m.Publish, nodes=dict.fromkeys(names, b"")))
    failed = message(m.Failed, stage="serve", blame=Blame.US, text="again")
    assert [heard.check(failed) for _ in range(FAILURES_HEARD + 1)][-1] is None
    with pytest.raises(BackendBug, match="more than it may have"):
        heard.check(message(m.Publish, nodes={"feature-x": b""}))
    heard.forget()
    assert heard.check(message(m.Publish, nodes={"feature-x": b""})) is not None
    assert heard.check(failed) == Failure(Blame.US, "again", "serve")
