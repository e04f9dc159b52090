# SPDX-License-Identifier: MIT
"""Finds workers whose ring loop has stopped beating: first late, then dead.

One timer serves all of them. It goes off when the first of them would be late, or dead, so it costs
one look at all devices every few seconds and nothing for each beat.

A supervisor that was itself stopped or starved finds every worker overdue, and would kill all of
them for its own absence. So when the timer comes late, nobody is judged before another interval
has passed, in which the messages that were queued meanwhile are read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from config.model import Config, DeviceTimeouts
from supervisor.workers.link import WorkerLink

TRUSTED: Final = 1.0
"""Seconds that the timer may be late before the supervisor distrusts its own clock."""


def late_after(timeouts: DeviceTimeouts) -> float:
    """Seconds of silence after which a worker is late: not before two beats were due."""
    return max(timeouts.beat_late, 2 * timeouts.beat)


class Watchdog:
    """`links` gives the workers to look at; `config` the configuration of the moment."""

    def __init__(
        self, links: Callable[[], Iterable[WorkerLink]], config: Callable[[], Config]
    ) -> None:
        self._links = links
        self._config = config
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def start(self) -> None:
        """Begin."""
        self._arm(self._shortest())

    def stop(self) -> None:
        """End. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _shortest(self) -> float:
        """Seconds in which a worker that beats now can become late or dead."""
        config = self._config()
        sections = [config.timeouts, *(one.timeouts for one in config.types.values())]
        return min(min(late_after(one), one.beat_dead) for one in sections if one is not None)

    def _arm(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._due = loop.time() + seconds
        self._timer = loop.call_at(self._due, self._look)

    def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        shortest = self._shortest()
        pause = min(TRUSTED, shortest / 4)
        if now - self._due > pause:
            self._arm(max(pause, TRUSTED))
            return
        due = min((self._judge(link, now) for link in self._links()), default=now + shortest)
        self._arm(max(pause, min(due, now + shortest) - now))

    def _judge(self, link: WorkerLink, now: float) -> float:
        """Act on one worker's silence; returns when it is to be looked at again."""
        health = link.health
        if not health.watched:
            return float("inf")
        timeouts = link.timeouts
        silent = now - health.last_seen
        if silent >= timeouts.beat_dead:
            link.hung(f"no beat for {timeouts.beat_dead:g} s")
            return float("inf")
        late = late_after(timeouts)
        if silent >= late:
            health.late(now)
            return health.last_seen + timeouts.beat_dead
        return health.last_seen + min(late, timeouts.beat_dead)
