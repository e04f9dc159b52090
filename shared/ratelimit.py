# SPDX-License-Identifier: MIT
"""A token bucket: what guests and workers can cause at will is bounded by it. Pure."""

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
        """Take a token if there is one; counts what is refused in `suppressed`."""
        if self._at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._at) / self._period)
        self._at = now
        if self._tokens < 1:
            self.suppressed += 1
            return False
        self._tokens -= 1
        return True

    def give(self) -> None:
        """One more is allowed than time alone would allow, up to the burst."""
        self._tokens = min(self._burst, self._tokens + 1)

    def take_suppressed(self) -> int:
        """How many were refused since the last call."""
        count, self.suppressed = self.suppressed, 0
        return count
