# SPDX-License-Identifier: MIT
"""Notices a worker that was sent SIGKILL and does not die.

A process in uninterruptible sleep (D state: a disk or file server that does not answer) dies when
its system call returns, and not before. Nothing may take its place until then.
"""

from __future__ import annotations

from collections.abc import Callable

from supervisor.timer import Timer
from supervisor.workers.spawner import KILL_PATIENCE


class DeathWatch:
    """Of one worker; `alarm` is called once for each that outlives `KILL_PATIENCE` seconds."""

    def __init__(self, alarm: Callable[[], None]) -> None:
        self._alarm = alarm
        self._due = Timer()
        self._killed = False
        self.unkillable = False

    def killed(self) -> None:
        """It is being sent SIGKILL; may be said more than once."""
        if not self._killed:
            self._killed = True
            self._due.set(KILL_PATIENCE, self._overdue)

    def over(self) -> None:
        """It is dead, or nobody wants to know any more."""
        self._due.cancel()
        self._killed = self.unkillable = False

    def _overdue(self) -> None:
        self.unkillable = True
        self._alarm()
