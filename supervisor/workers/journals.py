# SPDX-License-Identifier: MIT
"""The journal files of the devices: where they are and when they are removed.

One file per device in `<runtime_dir>/journal`, named `<type>-<domid>-<devid>`; the worker creates,
locks and writes it (worker/journal.py). It must outlive every worker of a live device, or the next
one does not know what is in flight. So it is removed only for a device whose directory is gone, and
never while a process holds its lock: a second file of that name would be a second lock.

Does not look into them.
"""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path
from typing import Final

from shared.device_id import DeviceId
from shared.errors import ConfigError
from supervisor.xenstore import probe
from supervisor.xenstore.paths import backend_path
from supervisor.xenstore.store import Store

_log = logging.getLogger("xenbackd.journals")

JOURNALS: Final = "journal"


class Journals:
    """The directory of the journals."""

    def __init__(self, runtime_dir: Path) -> None:
        self.directory = runtime_dir / JOURNALS

    def open(self) -> None:
        """Make the directory.

        Raises:
            ConfigError: it cannot be made.
        """
        try:
            self.directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"runtime_dir: {self.directory}: {error.strerror}") from error

    def path(self, device: DeviceId) -> Path:
        """Where the device's journal is, or will be."""
        return self.directory / f"{device.type}-{device.domid}-{device.devid}"

    def remove(self, device: DeviceId) -> None:
        """The device is gone. A worker that is still there keeps its file, for `sweep` to find."""
        path = self.path(device)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            return
        except BlockingIOError:
            _log.debug("journal: %s: in use, kept", device)
        except OSError as error:
            _log.error("journal: %s: %s: left behind", path, error.strerror)

    async def sweep(self, store: Store, own_path: str) -> None:
        """Remove the journals of devices that went away while nobody served.

        A device that is not served keeps its journal as long as its directory is there: its type
        may be switched on again while its ring is live.
        """
        for path in sorted(self.directory.iterdir()):
            try:
                device = DeviceId.parse(path.name.replace("-", "/"))
            except ConfigError:
                continue
            if not (await probe.backend(store, backend_path(own_path, device))).there:
                self.remove(device)
