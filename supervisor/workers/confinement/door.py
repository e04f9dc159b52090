# SPDX-License-Identifier: MIT
"""Where workers come in: the directory of their socket.

A jailed worker has a user id of its own, and of the file system it has only this one directory,
mounted into its root. It must be able to connect again, because when its supervisor dies the next
one binds the path. So the socket is open to every user, and so is its directory. The directory
above, `bus`, is for the supervisor's user alone and keeps the host's other users out. A jailed
worker does not pass through that one: in its root the directories above the mount are different.
The kernel's credentials of a connection are checked in `supervisor.workers.bus`.

A worker with a user id of its own that could not mount (root without CAP_SYS_ADMIN) cannot come
back; the next supervisor replaces it instead of adopting it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from shared.errors import ConfigError

CLOSED: Final = "bus"
OPEN: Final = "door"


def socket_path(runtime_dir: Path) -> Path:
    """Path of the workers' socket: the longest of all that a supervisor makes."""
    return runtime_dir / CLOSED / OPEN / "workers.sock"


def make_door(runtime_dir: Path) -> Path:
    """Make the directories; returns the path that the socket is to be bound to.

    Raises:
        ConfigError: they cannot be made.
    """
    socket = socket_path(runtime_dir)
    try:
        for directory, mode in ((socket.parent.parent, 0o700), (socket.parent, 0o711)):
            directory.mkdir(exist_ok=True)
            directory.chmod(mode)  # the umask does not matter then
    except OSError as error:
        raise ConfigError(f"runtime_dir: {socket.parent}: {error.strerror}") from error
    return socket
