# SPDX-License-Identifier: MIT
"""The device's journal file, which a worker leaves to its successor; it is also their lock.

The process that holds the lock is the device's worker; a second worker ends before it has touched
anything. The lock is a flock, so it ends with its holder, even a killed one. The supervisor removes
the file under the same lock when the device is gone. So a file that we have just locked may no
longer be the one of that name; then we try again.

This module does not read or write the file: its content belongs to the device type.
"""

from __future__ import annotations

import fcntl
import os

from shared.device_id import DeviceId
from shared.errors import HostError


def open_journal(path: str, device: DeviceId) -> int:
    """Open and lock the file; create it if necessary. Keep the descriptor until the process ends.

    Raises:
        HostError: another worker has the lock, or the file cannot be opened.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        try:
            descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise HostError(f"journal: {path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            cause = (
                "another worker has it" if isinstance(error, BlockingIOError) else error.strerror
            )
            raise HostError(f"journal: {device}: {cause} ({path})") from error
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)
