# SPDX-License-Identifier: MIT
"""How well a living worker does: late with its beats, slow or stalled with its guest's requests.

Nothing here ends a worker: `supervisor.workers.watchdog` does that for missing beats, and slow
storage is no fault of the worker's. Each change is told once, so an operator who reads the events
knows when it began and when it was over.

Progress is judged by those counters of the beats that the device type's manifest calls pending or
finished. A type that has neither is never judged. A worker can be taken over, so these are only
numbers to compare, bounded by `shared.messages`. All they can do is make its own device look well
or ill.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable

from config.model import DeviceTimeouts
from shared.device_types import FINISHED_ROLES, Counter


class Progress(enum.Enum):
    """How the requests go."""

    FINE = ""
    SLOW = "slow"
    STALLED = "stalled"


class Health:
    """One device's. `tell(kind, text)` is called for each change; times as the loop's clock."""

    def __init__(self, tell: Callable[[str, str], None], about: Iterable[Counter] = ()) -> None:
        """`about` is what the device's type says of its counters."""
        self._tell = tell
        known = tuple(about)
        self._finished_names = {one.name for one in known if one.role in FINISHED_ROLES}
        self._pending_names = {one.name for one in known if one.role == "pending"}
        self.watched = False
        """Its beats are due: it has said Hello and no hook is under way."""
        self.last_seen = 0.0
        self.counters: dict[str, int] = {}
        """Of the last beat."""
        self._late_since: float | None = None
        self._progress = Progress.FINE
        self._finished = 0
        self._pending = 0
        self._since = 0.0
        """When a request was last seen to be finished, or none to be pending."""

    @property
    def word(self) -> str:
        """For `status`: "late", "stalled", "slow" or ""."""
        return "late" if self._late_since is not None else self._progress.value

    def begin(self) -> None:
        """Another worker is started."""
        self.over()
        self.counters = {}

    def over(self) -> None:
        """The worker is dead: nothing is told of how it did in the end."""
        self.watched = False
        self._late_since = None
        self._progress = Progress.FINE
        self._finished = self._pending = 0

    def late(self, now: float) -> None:
        """No beat came in time. May be called more than once."""
        if self._late_since is None:
            self._late_since = self.last_seen
            self._tell("late", f"no beat for {now - self.last_seen:.0f} s")

    def heard(self, now: float) -> None:
        """A message came, of any kind."""
        self.last_seen = now
        if self._late_since is not None:
            silent, self._late_since = now - self._late_since, None
            self._tell("late", f"beats again after {silent:.0f} s")

    def beat(self, counters: dict[str, int], now: float, timeouts: DeviceTimeouts) -> None:
        """A beat came: look whether requests were finished since the last one."""
        self.counters = counters
        finished = sum(counters.get(name, 0) for name in self._finished_names)
        pending_before = self._pending
        self._pending = sum(counters.get(name, 0) for name in self._pending_names)
        # A request that became pending since the last beat did so at an unknown moment since then:
        # its time counts from now on.
        if finished != self._finished or not self._pending or not pending_before:
            self._finished, waited, self._since = finished, now - self._since, now
            if self._progress is not Progress.FINE:
                self._progress = Progress.FINE
                self._tell("progress", f"requests are finished again after {waited:.0f} s")
            return
        waited = now - self._since
        if waited >= timeouts.progress_stalled:
            self._worse(Progress.STALLED, waited)
        elif waited >= timeouts.progress_warn:
            self._worse(Progress.SLOW, waited)

    def _worse(self, now: Progress, waited: float) -> None:
        if self._progress is not now:
            self._progress = now
            self._tell(
                "progress",
                f"{now.value}: {self._pending} requests pending, none finished for {waited:.0f} s",
            )
