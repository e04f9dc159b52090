# SPDX-License-Identifier: MIT
"""Waiting for the lock of a device, so that it never has two workers.

A process of an earlier supervisor that nobody knows of holds the lock of its device
(`supervisor.workers.records`). It is looked for and killed, and nothing is started before the lock
is free. A lock has no descriptor to wait for, so it is asked again and again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Callable
from typing import Final, Protocol

from shared.device_id import DeviceId
from shared.errors import HostError
from supervisor.timer import Timer

_log = logging.getLogger("xenbackd.spawner")

LOCK_RETRY: Final = 0.1
"""Seconds between two looks at a lock that is held."""

LOCK_PATIENCE: Final = 20
"""Looks before its holder is killed. A worker that had just been forked when its supervisor died
ends by itself, and until it is forked the lock is on its way to it. If the kill does not help, the
next one comes after twice as many: finding a holder means reading every descriptor of the host."""


class Locks(Protocol):
    """`supervisor.workers.records.Records`, as far as it locks."""

    def lock(self, device: DeviceId) -> int | None:
        """Take a device; None while a worker holds it."""

    def holders(self, device: DeviceId) -> list[int]:
        """Processes that hold it."""


class LockWait:
    """Takes the lock of one device, for a worker that is to be started."""

    def __init__(self, device: DeviceId, locks: Locks) -> None:
        self._device = device
        self._locks = locks
        self._looks = 0
        self._kill_at = LOCK_PATIENCE
        """Number of the look at which the lock's holder is killed next."""
        self._next = Timer()
        self.waiting = False
        self.lock: int | None = None
        """Descriptor that holds the lock, until the child has its copy."""

    def take(self, then: Callable[[HostError | None], None]) -> None:
        """Call `then` when `lock` is ours, or with the error if the lock cannot be asked for."""
        self.waiting = False
        try:
            self.lock = self._locks.lock(self._device)
        except HostError as error:
            then(error)
            return
        if self.lock is not None:
            then(None)
            return
        self._looks += 1
        if self._looks >= self._kill_at:
            self._kill_at *= 2
            self._kill_holders()
        self.waiting = True
        self._next.set(LOCK_RETRY, self.take, then)

    def cancel(self) -> None:
        """Stop waiting."""
        self.waiting = False
        self._next.cancel()

    def release(self) -> None:
        """From here on the worker alone holds the lock. Idempotent."""
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None

    def _kill_holders(self) -> None:
        for pid in self._locks.holders(self._device):
            _log.error(
                "worker: %s: process %d serves it and nobody knows of it: kill", self._device, pid
            )
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
