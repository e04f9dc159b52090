# SPDX-License-Identifier: MIT
"""One call that is to happen later, unless it is postponed or cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Timer:
    """At most one call is pending; used in the loop's thread."""

    def __init__(self) -> None:
        self._handle: asyncio.TimerHandle | None = None

    def set(self, seconds: float, call: Callable[..., object], *args: Any) -> None:
        """Call in so many seconds, instead of what was pending."""
        self.cancel()
        self._handle = asyncio.get_running_loop().call_later(seconds, call, *args)

    def cancel(self) -> None:
        """Nothing is pending any more. Idempotent, and fine after the call."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
