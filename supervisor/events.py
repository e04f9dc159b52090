# SPDX-License-Identifier: MIT
"""The last events of the supervisor, kept in a ring and handed to a listener.

Bounded: a guest that causes events can push older ones out, and nothing more. The wall-clock time
in an event is for people; nothing is decided by it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from shared.control import Event

CAPACITY: Final = 1024


class EventLog:
    """Ring of `CAPACITY` events; `listener` gets each one as it happens."""

    def __init__(self, listener: Callable[[Event], None] | None = None) -> None:
        self._events: deque[Event] = deque(maxlen=CAPACITY)
        self._next = 1
        self.listener = listener

    def add(self, kind: str, device: str, text: str) -> Event:
        """Record one event; `device` is "" for what concerns the supervisor itself."""
        time = datetime.now(UTC).astimezone().isoformat(timespec="milliseconds")
        event = Event(seq=self._next, time=time, kind=kind, device=device, text=text)
        self._next += 1
        self._events.append(event)
        if self.listener is not None:
            self.listener(event)
        return event

    def last(self, count: int, device: str | None = None) -> list[Event]:
        """The newest `count` events, oldest first; of one device if it is named."""
        if count <= 0:
            return []
        chosen = [event for event in self._events if device in (None, event.device)]
        return chosen[-count:]
