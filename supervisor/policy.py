# SPDX-License-Identifier: MIT
"""What follows the end of a worker: at once, after a pause, or not without the operator.

Pure: time and chance are passed in. One `RestartPolicy` per device remembers its failures.

The first failure is answered by a successor at once, because most are single events and a guest
waits. The next ones wait longer and longer, with jitter so that many devices hit by one cause do
not come back in step. Too many within the window end in quarantine, which only the operator (or a
device made anew by the toolstack) ends: a worker that a guest can crash must not be a service for
trying exploits. An uninterrupted time of service makes earlier failures forgotten.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable
from dataclasses import dataclass

from config.model import RestartConfig
from shared.errors import Blame
from shared.lifecycle_types import Hold


class ExitKind(enum.Enum):
    """Why a worker is no more."""

    CLEAN = "clean"
    CONFIG = "config"
    GUEST = "guest"
    HOST = "host"
    CRASH = "crash"
    """Died of a signal or of an exception nobody expected, or broke the message schema."""
    HANG = "hang"
    """Missed a deadline and was killed for it."""
    SECURITY = "security"
    """SIGSYS: a system call that its jail does not allow."""
    SPAWN = "spawn"
    """Never came to life."""


KIND_OF_BLAME = {
    Blame.GUEST: ExitKind.GUEST,
    Blame.OPERATOR: ExitKind.CONFIG,
    Blame.HOST: ExitKind.HOST,
    Blame.US: ExitKind.CRASH,
}


@dataclass(frozen=True, slots=True)
class Decision:
    """`hold` for the life cycle; with `BACKOFF`, `delay` is the pause in seconds."""

    hold: Hold
    delay: float = 0.0


class RestartPolicy:
    """The failures of one device and what they lead to. Times are seconds, monotonic."""

    def __init__(self, config: RestartConfig, chance: Callable[[], float] = random.random) -> None:
        self.config = config
        self._chance = chance
        self._failures: list[float] = []
        self._streak = 0
        self._connected_at: float | None = None

    @property
    def failures(self) -> int:
        """Failures not forgotten yet."""
        return self._streak

    def connected(self, now: float) -> None:
        """The device is Connected and served; may be said more than once."""
        if self._connected_at is None:
            self._connected_at = now

    def disconnected(self) -> None:
        """The device is not served any more; not by failure, or `ended` follows."""
        self._connected_at = None

    def reset(self) -> None:
        """Forget everything: the operator asked, or what was complained about has changed."""
        self._failures.clear()
        self._streak = 0

    def ended(self, kind: ExitKind, now: float) -> Decision:
        """Decide after a worker's end."""
        served_since, self._connected_at = self._connected_at, None
        if served_since is not None and now - served_since >= self.config.stable_after:
            self.reset()
        match kind:
            case ExitKind.CLEAN:
                return Decision(Hold.NONE)
            case ExitKind.CONFIG:
                return Decision(Hold.CONFIG)
            case ExitKind.GUEST:
                return Decision(Hold.GUEST)
            case ExitKind.SECURITY:
                return Decision(Hold.QUARANTINED)
        return self._failed(now)

    def _failed(self, now: float) -> Decision:
        config = self.config
        self._failures = [at for at in self._failures if now - at < config.quarantine_window]
        self._failures.append(now)
        self._streak += 1
        if len(self._failures) >= config.quarantine_failures:
            return Decision(Hold.QUARANTINED)
        if self._streak == 1:
            return Decision(Hold.NONE)
        # The exponent is bounded because a float power overflows long before a guest gives up.
        pause = min(config.max, config.initial * config.factor ** min(self._streak - 2, 64))
        return Decision(Hold.BACKOFF, pause * (1 + config.jitter * (2 * self._chance() - 1)))
