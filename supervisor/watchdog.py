# SPDX-License-Identifier: MIT
"""Finds workers whose ring loop has stopped beating.

One timer for all of them: it goes off when the worker heard of longest ago would be overdue, so
it costs one look at all devices in some seconds and nothing for each beat.

A supervisor that was itself stopped or starved finds every worker overdue, and would kill all of
them for its own absence. So when the timer comes late, nobody is judged before another interval
has passed, in which what was queued meanwhile is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from supervisor.workerlink import WorkerLink

LATE: Final = 1.0
"""Seconds by which the timer may be late before the supervisor distrusts its own clock."""


class Watchdog:
    """`links` gives the workers to look at; `dead_after` the seconds without a word."""

    def __init__(
        self, links: Callable[[], Iterable[WorkerLink]], dead_after: Callable[[], float]
    ) -> None:
        self._links = links
        self._dead_after = dead_after
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def start(self) -> None:
        """Begin."""
        self._arm(self._dead_after())

    def stop(self) -> None:
        """End. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._due = loop.time() + seconds
        self._timer = loop.call_at(self._due, self._look)

    def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        limit = self._dead_after()
        shortest = min(LATE, limit / 4)
        if now - self._due > shortest:
            self._arm(max(shortest, LATE))
            return
        oldest = now
        for link in self._links():
            if link.watched and now - link.last_seen >= limit:
                link.hung(f"no beat for {limit:g} s")
            elif link.watched:
                oldest = min(oldest, link.last_seen)
        self._arm(max(shortest, oldest + limit - now))
