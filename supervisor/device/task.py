# SPDX-License-Identifier: MIT
"""The one task of a device: works off what waits, and ends when nothing does.

One task, so that a read of xenstore can never be overtaken by a write of our own. None while there
is nothing to do, because most devices are idle most of the time. A failure of one piece of work
does not end the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from shared.errors import BlamedError
from shared.logs import DeviceLogger
from shared.xenstore.errors import ConnectionLostError

WRITE_RETRY: Final = 2.0
"""Seconds after which a refused write (quota, permissions) is tried again."""


class DeviceTask:
    """Calls `work_once` while `has_work` says so, and `look_again` some time after a failure."""

    def __init__(
        self,
        log: DeviceLogger,
        *,
        has_work: Callable[[], bool],
        work_once: Callable[[], Awaitable[None]],
        look_again: Callable[[], None],
    ) -> None:
        self._log = log
        self._has_work = has_work
        self._work_once = work_once
        self._look_again = look_again
        self._task: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        """There may be something to do."""
        if self._task is None and self._has_work():
            self._task = asyncio.get_running_loop().create_task(self._work())

    def retry_later(self) -> None:
        """Something failed that may work in a while."""
        if self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(WRITE_RETRY, self._again)

    async def close(self) -> None:
        """Stop working, in the middle of a piece of work too."""
        if self._retry is not None:
            self._retry.cancel()
        if (task := self._task) is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _again(self) -> None:
        self._retry = None
        self._look_again()

    async def _work(self) -> None:
        try:
            while self._has_work():
                try:
                    await self._work_once()
                except ConnectionLostError as error:
                    # After the reconnection everything is read again.
                    self._log.debug("%s", error)
                except BlamedError as error:
                    self._log.log(error.log_level, "%s", error)
                    self.retry_later()
                except Exception:  # noqa: BLE001 - one device's bug must not end the others
                    self._log.exception("bug in the supervisor; please report it")
                    self.retry_later()
        finally:
            self._task = None
