# SPDX-License-Identifier: MIT
"""The queue of watch events: coalesced, bounded, fair."""

from __future__ import annotations

import asyncio

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.xenstore.watches import NO_DOMAIN, Watch, WatchQueue, WatchTable
from shared.xenstore.wire import WatchEvent

BACKEND = "/local/domain/0/backend/toy"


def domain_of(path: str) -> int:
    """Domain in a path below the backend directory, as the supervisor's watch has it."""
    return int(path[len(BACKEND) :].split("/")[1])


def drain(queue: WatchQueue) -> list[WatchEvent]:
    """All pending events in order."""
    events = []
    while (event := queue.get_nowait()) is not None:
        events.append(event)
    return events


def test_queue_same_node_twice_is_one_event() -> None:
    """One event is pending per path and token; the rest is counted."""
    queue = WatchQueue()
    watch = Watch("/a", "t", 1)
    other = Watch("/a", "u", 1)
    for _ in range(5):
        queue.put(watch, "/a/b")
    queue.put(other, "/a/b")
    assert drain(queue) == [WatchEvent("/a/b", "t"), WatchEvent("/a/b", "u")]
    assert queue.coalesced == 4


def test_queue_event_taken_then_fired_again_comes_again() -> None:
    """Only pending events coalesce."""
    queue = WatchQueue()
    watch = Watch("/a", "t", 1)
    for _ in range(2):
        queue.put(watch, "/a")
        assert queue.get_nowait() == WatchEvent("/a", "t")
    assert queue.get_nowait() is None


def test_s20_queue_noisy_domain_does_not_delay_others() -> None:
    """One event of each other domain comes before the second one of the noisy domain."""
    queue = WatchQueue()
    shared = Watch(BACKEND, "toy", domain_of)
    for node in range(200):
        queue.put(shared, f"{BACKEND}/7/51712/n{node}")
    for domain in (8, 9):
        queue.put(shared, f"{BACKEND}/{domain}/51712/state")
    first = [queue.get_nowait() for _ in range(3)]
    assert [event.path for event in first if event] == [
        f"{BACKEND}/7/51712/n0",
        f"{BACKEND}/8/51712/state",
        f"{BACKEND}/9/51712/state",
    ]


def test_queue_overflow_collapses_to_the_watch_root() -> None:
    """A domain's full queue becomes one event per watch; other domains keep theirs."""
    queue = WatchQueue(limit=10)
    noisy, calm, other = Watch("/n", "n", 1), Watch("/c", "c", 1), Watch("/o", "o", 2)
    queue.put(calm, "/c/x")
    queue.put(other, "/o/x")
    for node in range(1000):
        queue.put(noisy, f"/n/{node}")
    assert len(queue) == 3
    assert sorted(drain(queue)) == [
        WatchEvent("/c", "c"),
        WatchEvent("/n", "n"),
        WatchEvent("/o/x", "o"),
    ]
    queue.put(noisy, "/n/1")
    assert drain(queue) == [WatchEvent("/n/1", "n")]


def test_queue_path_without_domain_has_a_queue_of_its_own() -> None:
    """The root of a shared watch names no domain; nothing escapes."""
    queue = WatchQueue()
    watch = Watch(BACKEND, "toy", domain_of)
    assert watch.domain_of(BACKEND) == NO_DOMAIN
    queue.put(watch, BACKEND)
    assert drain(queue) == [WatchEvent(BACKEND, "toy")]


def test_queue_forget_drops_pending_events() -> None:
    """After unwatch nothing of the watch comes out."""
    queue = WatchQueue()
    gone, kept = Watch("/a", "t", 1), Watch("/b", "t", 2)
    queue.put(gone, "/a")
    queue.put(kept, "/b")
    queue.forget(gone)
    assert drain(queue) == [WatchEvent("/b", "t")]


def test_queue_get_waits_and_survives_cancellation() -> None:
    """A cancelled wait loses no event."""

    async def scenario() -> WatchEvent:
        queue = WatchQueue()
        waiting = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        waiting.cancel()
        queue.put(Watch("/a", "t", 1), "/a")
        return await queue.get()

    assert asyncio.run(scenario()) == WatchEvent("/a", "t")


def test_table_same_token_finds_the_watch_by_path() -> None:
    """An event belongs to the watch at or above its path, not to a namesake's prefix."""
    table = WatchTable()
    short, long = Watch("/a/b", "t", 1), Watch("/a/bc", "t", 2)
    table.add(short)
    table.add(long)
    assert table.find("/a/bc/d", "t") is long
    assert table.find("/a/b", "t") is short
    assert table.find("/a", "t") is None
    table.remove(long)
    assert table.find("/a/bc", "t") is None


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), max_size=300))
def test_queue_any_load_is_bounded_and_loses_no_node(load: list[tuple[int, int]]) -> None:
    """Every change is covered by an event for the node or its watch, within the bound."""
    queue = WatchQueue(limit=8)
    watches = [Watch(f"/{domain}", "t", domain) for domain in range(4)]
    for domain, node in load:
        queue.put(watches[domain], f"/{domain}/{node}")
        assert len(queue) <= 4 * 8
    told = {event.path for event in drain(queue)}
    assert all(f"/{d}/{n}" in told or f"/{d}" in told for d, n in load)
