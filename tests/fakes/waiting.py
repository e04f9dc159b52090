# SPDX-License-Identifier: MIT
"""The one place where a test looks again and again: for what other processes do and no descriptor
of ours tells."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Final

DEADLINE: Final = 20.0
INTERVAL: Final = 0.02


def wait_until(
    holds: Callable[[], bool], what: str | Callable[[], str], timeout: float = DEADLINE
) -> None:
    """Return as soon as it holds; AssertionError after `timeout` seconds.

    `what` is what was waited for, or tells it at the time.
    """
    end = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > end:
            text = what if isinstance(what, str) else what()
            raise AssertionError(f"waited {timeout:g} s for {text}")
        select.select([], [], [], INTERVAL)
