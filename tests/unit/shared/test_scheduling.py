# SPDX-License-Identifier: MIT
"""What a supervisor asks of the scheduler, and a worker once it serves."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from shared.native._slice import lib
from shared.scheduling import LONG, SHORTEST, lengthen_slice, roam, shorten_slice, stay_here
from tests.fakes.scheduler import SLICES, slice_of

T = TypeVar("T")


def in_a_thread(work: Callable[[], T]) -> T:
    """Threads have attributes of their own, and this one's end with it."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


@pytest.mark.skipif(not SLICES, reason="this kernel has no slices to ask for")
def test_slice_shortened_is_the_shortest_of_that_thread_only() -> None:
    """A tenth of a millisecond, for the thread and those it starts; nobody else's changes."""

    def work() -> tuple[str, int]:
        trouble = shorten_slice()
        assert slice_of(threading.get_native_id()) == SHORTEST
        return trouble, in_a_thread(lambda: slice_of(0))

    before = slice_of(0)
    assert in_a_thread(work) == ("", SHORTEST)
    assert slice_of(0) == before != SHORTEST


def test_slice_shortened_keeps_nice() -> None:
    """What an administrator gave the service is not undone."""

    def work() -> tuple[str, int]:
        me = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, me, 7)
        return shorten_slice(), os.getpriority(os.PRIO_PROCESS, me)

    assert in_a_thread(work) == ("", 7)


def test_slice_of_a_thread_of_another_class_stays() -> None:
    """One that is to run only where nothing else wants to keeps its class, and its slice."""

    def work() -> tuple[str, int, bool]:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        before = slice_of(0)
        return shorten_slice(), os.sched_getscheduler(0), slice_of(0) == before

    assert in_a_thread(work) == ("", os.SCHED_IDLE, True)


@pytest.mark.skipif(not SLICES, reason="this kernel has no slices to ask for")
def test_slice_lengthened_is_longer_than_the_usual_and_never_shorter_than_it_was() -> None:
    """A supervisor that replaces itself has its long one, and what an administrator gave stays."""

    def work() -> list[tuple[str, int]]:
        asked = [(lengthen_slice(), slice_of(0)) for _ in range(2)]
        assert not lib.slice_set(2 * LONG)
        return [*asked, (lengthen_slice(), slice_of(0))]

    usual = slice_of(0)
    assert in_a_thread(work) == [("", LONG), ("", LONG), ("", 2 * LONG)]
    assert slice_of(0) == usual < LONG


def test_stay_here_keeps_a_thread_and_what_it_starts_on_one_cpu_until_it_may_roam() -> None:
    """The CPU it is on; after that all threads have again what the first had before."""

    def work() -> tuple[list[str], set[int], set[int]]:
        said = [stay_here()]
        kept = os.sched_getaffinity(0)
        assert in_a_thread(lambda: os.sched_getaffinity(0)) == kept
        said += [roam(), roam()]  # the second finds nothing to end
        return said, kept, os.sched_getaffinity(0)

    before = os.sched_getaffinity(0)
    said, kept, after = in_a_thread(work)
    assert (said, len(kept), after) == ([""] * 3, 1, before)
    assert kept <= before
    assert os.sched_getaffinity(0) == before
