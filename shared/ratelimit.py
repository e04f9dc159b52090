# SPDX-License-Identifier: MIT
"""A token bucket that limits what guests and workers can cause at will. Pure."""

from __future__ import annotations


class RateLimit:
    """Token bucket: `burst` at once, then one per `period` seconds."""

    def __init__(self, burst: int, period: float) -> None:
        self._burst = burst
        self._period = period
        self._tokens = float(burst)
        self._at: float | None = None
        self.suppressed = 0

    def allow(self, now: float) -> bool:
        """Take a token if there is one; otherwise count the refusal."""
        if self._at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._at) / self._period)
        self._at = now
        if self._tokens < 1:
            self.suppressed += 1
            return False
        self._tokens -= 1
        return True

    def give(self) -> None:
        """Add a token before its time, up to the burst."""
        self._tokens = min(self._burst, self._tokens + 1)

    def take_suppressed(self) -> int:
        """How many were refused since the last call."""
        count, self.suppressed = self.suppressed, 0
        return count
