# SPDX-License-Identifier: MIT
"""The runtime directory, and the lock that keeps other supervisors out of it.

Only the supervisor holds `supervisor.lock` (flock, so that it ends with its holder in any way that
ends). ZeroMQ lets a second process take over the path of a socket without a word, so a second
supervisor must be stopped before it binds. Workers that outlive a supervisor do not hold the lock;
the lock of a device (`supervisor.workers.records`) keeps a second worker off it.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from shared.errors import ConfigError, HostError
from supervisor.workers.confinement.door import socket_path

SUPERVISOR_LOCK: Final = "supervisor.lock"
SOCKET_PATH_MAX: Final = 107
"""Bytes of a UNIX socket's path (sun_path without its final zero)."""


class Instance:
    """The right to be the supervisor of a runtime directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock: int | None = None

    @property
    def lock(self) -> int:
        """Descriptor that holds the lock, for the next image of this process."""
        assert self._lock is not None
        return self._lock

    def open(self, inherited: int | None = None) -> None:
        """Make the directory and take the lock; `inherited` is the lock of the image before.

        Raises:
            ConfigError: the directory cannot be used.
            HostError: another supervisor is there.
        """
        if len(os.fsencode(socket_path(self.directory))) > SOCKET_PATH_MAX:
            raise ConfigError(f"runtime_dir: {self.directory}: too long for a socket's path")
        try:
            # Others may pass through it to a socket that lets them in, but may not list it.
            self.directory.mkdir(mode=0o711, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            if inherited is None:
                self._lock = os.open(self.directory / SUPERVISOR_LOCK, flags, 0o600)
            else:
                self._lock = inherited
                os.set_inheritable(inherited, False)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise HostError(
                f"runtime directory: {self.directory}: another xenbackd serves from it"
            ) from None
        except OSError as error:
            self.close()
            raise ConfigError(f"runtime directory: {self.directory}: {error.strerror}") from error

    def close(self) -> None:
        """Give the lock back. Idempotent."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
