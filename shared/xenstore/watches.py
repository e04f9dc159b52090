# SPDX-License-Identifier: MIT
"""Watch events between arrival and their consumer: coalesced, bounded, fair.

A guest can cause as many events as it likes. So:
- at most one event is pending per (path, token), as in the kernel since XSA-349;
- every domain has a queue of its own, and the queues are served in turn, so a noisy domain delays
  only itself;
- a domain's queue is bounded. When it is full, the events of each watch in it collapse to one event
  for the path of the watch, which means: anything below may have changed.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from shared.xenstore.wire import WatchEvent

PENDING_PER_DOMAIN_MAX: Final = 256
"""Events kept per domain: enough for the nodes of several devices written at once."""

EVENTS_PER_TURN: Final = 64
"""Events handed out before the loop does other work."""

NO_DOMAIN: Final = -1
"""Key of events in whose path the watch's function found no domain."""


DomainKey = int | Callable[[str], int]
"""The queue for an event: a domain, or a function that finds it in the event's path."""


@dataclass(frozen=True, slots=True, eq=False)
class Watch:
    """One registered watch; two watches are told apart by identity."""

    path: str
    token: str
    domain: DomainKey

    def covers(self, path: str) -> bool:
        """Whether an event for this path can come from this watch."""
        root = self.path
        return path == root or root == "/" or path.startswith(root + "/")

    def domain_of(self, untrusted_path: str) -> int:
        """The queue for an event."""
        if isinstance(self.domain, int):
            return self.domain
        try:
            return self.domain(untrusted_path)
        except (ValueError, LookupError):
            return NO_DOMAIN


class WatchTable:
    """The registered watches, found by key or by the token of an event."""

    def __init__(self) -> None:
        self._watches: dict[tuple[str, str], Watch] = {}
        self._by_token: dict[str, list[Watch]] = {}

    def __len__(self) -> int:
        return len(self._watches)

    def __contains__(self, watch: Watch) -> bool:
        return self._watches.get((watch.path, watch.token)) is watch

    def get(self, path: str, token: str) -> Watch | None:
        """The watch registered with this path and token."""
        return self._watches.get((path, token))

    def all(self) -> list[Watch]:
        """A copy, in order of registration."""
        return list(self._watches.values())

    def add(self, watch: Watch) -> None:
        """Add a watch; the key must be free."""
        self._watches[watch.path, watch.token] = watch
        self._by_token.setdefault(watch.token, []).append(watch)

    def remove(self, watch: Watch) -> None:
        """Remove a watch if it is still the one under its key."""
        if watch not in self:
            return
        del self._watches[watch.path, watch.token]
        remaining = [w for w in self._by_token[watch.token] if w is not watch]
        if remaining:
            self._by_token[watch.token] = remaining
        else:
            del self._by_token[watch.token]

    def find(self, path: str, token: str) -> Watch | None:
        """The watch that an event belongs to; None if it was removed meanwhile."""
        for watch in self._by_token.get(token, ()):
            if watch.covers(path):
                return watch
        return None


class WatchQueue:
    """Pending events. `get` is the consumer's end; the client fills it."""

    def __init__(self, limit: int = PENDING_PER_DOMAIN_MAX) -> None:
        self._limit = limit
        self._pending: dict[int, OrderedDict[tuple[str, Watch], None]] = {}
        self._turn: deque[int] = deque()
        self._collapsed: set[tuple[int, Watch]] = set()
        self._ready = asyncio.Event()
        self.coalesced = 0
        """Events that arrived while an equal one was pending."""
        self.dropped = 0
        """Events replaced by one event for the whole watch."""

    def __len__(self) -> int:
        return sum(len(pending) for pending in self._pending.values())

    async def get(self) -> WatchEvent:
        """Wait for the next event. Cancelling loses none."""
        while True:
            event = self.get_nowait()
            if event is not None:
                return event
            self._ready.clear()
            await self._ready.wait()

    def get_nowait(self) -> WatchEvent | None:
        """The next event, None if none is pending."""
        if not self._turn:
            return None
        domain = self._turn.popleft()
        pending = self._pending[domain]
        (path, watch), _ = pending.popitem(last=False)
        self._collapsed.discard((domain, watch))
        if pending:
            self._turn.append(domain)
        else:
            del self._pending[domain]
        return WatchEvent(path, watch.token)

    async def hand_out(self, take: Callable[[WatchEvent], None]) -> None:
        """Call `take` with every event; never returns."""
        while True:
            take(await self.get())
            for _ in range(EVENTS_PER_TURN):
                event = self.get_nowait()
                if event is None:
                    break
                take(event)
            await asyncio.sleep(0)  # `get` does not yield while there are events

    def put(self, watch: Watch, untrusted_path: str) -> None:
        """Add an event that has arrived."""
        domain = watch.domain_of(untrusted_path)
        pending = self._pending.get(domain)
        if pending is None:
            pending = self._pending[domain] = OrderedDict()
            self._turn.append(domain)
            self._ready.set()
        if (untrusted_path, watch) in pending or (domain, watch) in self._collapsed:
            self.coalesced += 1
            return
        if len(pending) >= self._limit:
            pending[untrusted_path, watch] = None
            self._collapse(domain, pending)
        else:
            pending[untrusted_path, watch] = None

    def forget(self, watch: Watch) -> None:
        """Drop the pending events of a watch that was removed."""
        for domain, pending in list(self._pending.items()):
            for key in [key for key in pending if key[1] is watch]:
                del pending[key]
            self._collapsed.discard((domain, watch))
            if not pending:
                del self._pending[domain]
                self._turn.remove(domain)

    def _collapse(self, domain: int, pending: OrderedDict[tuple[str, Watch], None]) -> None:
        roots = OrderedDict(((watch.path, watch), None) for _, watch in pending)
        self.dropped += len(pending) - len(roots)
        self._collapsed.update((domain, watch) for _, watch in roots)
        pending.clear()
        pending.update(roots)
