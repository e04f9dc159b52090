# SPDX-License-Identifier: MIT
"""Children that earlier images of this process started (`supervisor.upgrade`).

Only the process that started them can reap them, and that is still this one. They are known by pids
that were handed over, which stay theirs until they are reaped.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
from collections.abc import Iterable


class Predecessors:
    """Children of the images before this one, reaped when they end. Used in the loop's thread."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._pidfds: dict[int, int] = {}
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                pidfd = self._pidfds[pid] = os.pidfd_open(pid)
                asyncio.get_running_loop().add_reader(pidfd, self._ended, pid)

    @property
    def pids(self) -> tuple[int, ...]:
        """Those that are alive."""
        return tuple(self._pidfds)

    def close(self) -> None:
        """Stop watching them. Idempotent."""
        for pid in list(self._pidfds):
            self._forget(pid)

    def _ended(self, pid: int) -> None:
        self._forget(pid)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)

    def _forget(self, pid: int) -> None:
        pidfd = self._pidfds.pop(pid)
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)


def end_child(pid: int, patience: float) -> None:
    """End a child of this process that an image before started: SIGTERM, then SIGKILL."""
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        pidfd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            if not select.select([pidfd], [], [], patience)[0]:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)
        os.waitpid(pid, 0)
