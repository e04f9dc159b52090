# SPDX-License-Identifier: MIT
"""Bounds on the restarts of all workers together, so that one tenant cannot eat the host.

There are two bounds: a number of restarts of one domain's workers within a window, and a rate with
a burst over all domains. First starts are free. Pure: time is passed in, in seconds, monotonic.

Each request is given a turn, now or later, and need not be repeated. So turns come in the order of
the requests, nobody starves, and a domain at its bound takes no turn from others. A turn that will
not be used (the device went away) can be given back until it comes.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from config.model import LimitsConfig

SWEEP: Final = 256
"""Domains remembered before those without a restart in the window are looked for."""


class RestartBudget:
    """The turns given out."""

    def __init__(self) -> None:
        self._domains: dict[int, deque[float]] = {}
        self._full_at = float("-inf")
        """When the burst over all domains is full again (generic cell rate algorithm)."""

    def turn(self, domid: int, now: float, limits: LimitsConfig) -> float:
        """When the next restart of one of the domain's workers may begin: `now` or later."""
        turns = self._domains.setdefault(domid, deque())
        while turns and turns[0] <= now - limits.domain_window:
            turns.popleft()
        at = now
        if len(turns) >= limits.domain_restarts:
            at = max(at, turns[-limits.domain_restarts] + limits.domain_window)
        elif len(self._domains) > SWEEP:
            self._sweep(now - limits.domain_window)
        if at == now:
            # A turn that lies ahead is bounded by its own domain; here it would block everybody.
            at = self._host_turn(now, limits)
        turns.append(at)
        self._domains[domid] = turns
        return at

    def give_back(self, domid: int, at: float) -> None:
        """A turn that has not come yet will not be used."""
        turns = self._domains.get(domid)
        if turns is not None and at in turns:
            turns.remove(at)

    def _host_turn(self, now: float, limits: LimitsConfig) -> float:
        interval = 1 / limits.restart_rate
        full_at = max(self._full_at, now) + interval
        self._full_at = full_at
        return max(now, full_at - limits.restart_burst * interval)

    def _sweep(self, before: float) -> None:
        for domid in [d for d, turns in self._domains.items() if not turns or turns[-1] <= before]:
            del self._domains[domid]


class Admission:
    """One device's place before the budget."""

    def __init__(self, budget: RestartBudget, domid: int) -> None:
        self._budget = budget
        self._domid = domid
        self._turn: float | None = None
        self._free = True

    def wait(self, now: float, limits: LimitsConfig) -> float:
        """Seconds until the wanted start may happen; 0 uses the turn up."""
        if self._free:
            self._free = False
            return 0.0
        if self._turn is None:
            self._turn = self._budget.turn(self._domid, now, limits)
        # A timer may fire a clock tick early.
        if self._turn - now > 0.001:
            return self._turn - now
        self._turn = None
        return 0.0

    def waive(self, now: float) -> None:
        """The next start is no restart after a failure, so it needs no turn."""
        self._free = True
        self.withdraw(now)

    def withdraw(self, now: float) -> None:
        """The start is not wanted any more: give the turn back."""
        if self._turn is not None and self._turn > now:
            self._budget.give_back(self._domid, self._turn)
        self._turn = None
