# SPDX-License-Identifier: MIT
"""An event loop whose time passes only when there is nothing else to do.

A test that waits for a deadline of a minute takes no time at all, and never depends on how busy
the machine is. Waiting for something that cannot happen is an error instead of a hang.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("the test waits for something that cannot happen")
        if not ready and timeout is not None and timeout > 0:
            self.now += timeout
        return ready


class ClockLoop(asyncio.SelectorEventLoop):
    """See the module; `time()` is seconds since no particular moment."""

    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        # Rounded up a little: call_at(time() + x) must be due once x has passed.
        return self._clock.now


def run(test: Coroutine[Any, Any, T]) -> T:
    """Run a test in a `ClockLoop`."""
    with asyncio.Runner(loop_factory=ClockLoop) as runner:
        return runner.run(test)


async def settle(turns: int = 200) -> None:
    """Let everything that can happen without the passing of time happen."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def pass_time(seconds: float) -> None:
    """Let time pass, and what follows from it."""
    await asyncio.sleep(seconds)
    await settle()


def in_clock_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test in a `ClockLoop`."""

    @functools.wraps(test)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    return wrapper
