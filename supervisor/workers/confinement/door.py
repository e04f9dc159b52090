# SPDX-License-Identifier: MIT
"""Where workers come in: the directory of their socket.

A jailed worker has a user id of its own and nothing left of the file system but this one directory,
mounted into its root. It must be able to connect anew, for when its supervisor dies another one
binds the path. So the socket is open to every user, and so is the directory it lies in; the one
above, `bus`, is for the supervisor's user alone and keeps the host's other users out. A jailed
worker does not pass through that one: in its root the directories above the mount are others. Where
the kernel's credentials of a connection are looked at: `supervisor.workers.bus`.

Whoever cannot mount (root without CAP_SYS_ADMIN) but has its own user id cannot come back; the next
supervisor replaces its worker instead of adopting it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from shared.errors import ConfigError

CLOSED: Final = "bus"
OPEN: Final = "door"


def socket_path(runtime_dir: Path) -> Path:
    """Path of the workers' socket: the longest of those that a supervisor makes."""
    return runtime_dir / CLOSED / OPEN / "workers.sock"


def make_door(runtime_dir: Path) -> Path:
    """Make the directories; returns the path the socket is to be bound to.

    Raises:
        ConfigError: they cannot be made.
    """
    socket = socket_path(runtime_dir)
    try:
        for directory, mode in ((socket.parent.parent, 0o700), (socket.parent, 0o711)):
            directory.mkdir(exist_ok=True)
            directory.chmod(mode)  # whatever the umask is
    except OSError as error:
        raise ConfigError(f"runtime_dir: {socket.parent}: {error.strerror}") from error
    return socket
