# SPDX-License-Identifier: MIT
"""The runtime directory, and that nobody else works in it.

Two locks (flock, so that they end with their holders however those end):

- `supervisor.lock`, held by the supervisor. ZeroMQ lets a second process take over the path of a
  socket without a word, so a second supervisor must be stopped before it binds.
- `workers.lock`, held by the supervisor and, as an inherited descriptor, by every worker. After a
  supervisor was killed its workers may live on for a moment; a successor that started its own
  beside them would have two writers on one disk. So it waits for the last of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import types
from pathlib import Path
from typing import Final

from shared.errors import ConfigError, HostError

SUPERVISOR_LOCK: Final = "supervisor.lock"
WORKERS_LOCK: Final = "workers.lock"
SOCKET_PATH_MAX: Final = 107
"""Bytes of a UNIX socket's path (sun_path less its final zero)."""


class Instance:
    """The right to be the supervisor of a runtime directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._locks: list[int] = []

    @property
    def workers_lock(self) -> int:
        """Descriptor for the workers to inherit."""
        return self._locks[1]

    def open(self, patience: float) -> None:
        """Make the directory and take the locks; called before the loop runs.

        Waits `patience` seconds for the workers of a former supervisor.

        Raises:
            ConfigError: the directory cannot be used.
            HostError: another supervisor is there, or workers of a former one do not end.
        """
        longest = self.directory / "control.sock"
        if len(os.fsencode(longest)) > SOCKET_PATH_MAX:
            raise ConfigError(f"runtime_dir: {self.directory}: too long for a socket's path")
        try:
            # Others may pass through it to a socket that lets them in, and not list it.
            self.directory.mkdir(mode=0o711, parents=True, exist_ok=True)
            for name in (SUPERVISOR_LOCK, WORKERS_LOCK):
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
                self._locks.append(os.open(self.directory / name, flags, 0o600))
            fcntl.flock(self._locks[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise HostError(
                f"runtime directory: {self.directory}: another xenbackd serves from it"
            ) from None
        except OSError as error:
            self.close()
            raise ConfigError(f"runtime directory: {self.directory}: {error.strerror}") from error
        if not _lock_within(self._locks[1], patience):
            self.close()
            raise HostError(
                f"runtime directory: {self.directory}: workers of a former xenbackd still run"
                f" after {patience:g} s"
            )

    def close(self) -> None:
        """Give the locks back. Idempotent."""
        for lock in self._locks:
            os.close(lock)
        self._locks.clear()


class _TooLong(Exception):
    pass


def _lock_within(descriptor: int, seconds: float) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True

    def give_up(_number: int, _frame: types.FrameType | None) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except _TooLong:
        return False
    else:
        return True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
