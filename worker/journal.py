# SPDX-License-Identifier: MIT
"""The device's journal file: what a worker leaves to its successor, and the lock between them.

Who holds the lock (flock, so that it ends with its holder however that ends) is the device's
worker; a second one ends before it has touched anything. The supervisor removes the file when the
device is gone, under the same lock, so a file that was locked may be no longer the one by that
name: then the next is tried.

Does not read or write it: what stands in it is the device type's.
"""

from __future__ import annotations

import fcntl
import os

from shared.device_id import DeviceId
from shared.errors import HostError


def open_journal(path: str, device: DeviceId) -> int:
    """Open and lock the file, made if it is not there; the descriptor is to live as long as we do.

    Raises:
        HostError: another worker has it, or it cannot be opened.
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
