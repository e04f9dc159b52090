# SPDX-License-Identifier: MIT
"""The user ids of workers: one for each.

Two workers of one user id could send each other signals and trace each other, so no id is given
twice.

Invariants:

- A device has its id from before its worker is forked until that worker is known dead, over
  supervisors too: the ids of workers that an earlier one left are taken before the first is given.
- An id that any other process on the host runs under is not given. /proc is read for that at the
  start, and again before it is reported that no id is left.
- A worker that could fork (jail.mode: log) may have left a process, so its id is in doubt
  afterwards, until /proc has been read again.

/etc/passwd is not read: an id may belong to a user who is not logged in, but `xenbackd doctor`
tells the operator that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from config.model import JailConfig
from shared.device_id import DeviceId
from shared.errors import BackendBug, HostError

PROC: Final = Path("/proc")


class UserIds:
    """The ids of one supervisor's workers."""

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._taken: dict[DeviceId, int] = {}
        self._may_fork: set[DeviceId] = set()
        self._in_doubt: set[int] = set()

    def open(self, taken: Mapping[DeviceId, int]) -> None:
        """Begin with what living workers of an earlier supervisor have."""
        self._taken = dict(taken)
        # What their jails allowed is not known.
        self._may_fork = set(taken)
        self._look()

    def of(self, device: DeviceId) -> int:
        """The id a device's worker has; 0 if it has none of its own."""
        return self._taken.get(device, 0)

    def take(self, device: DeviceId, config: JailConfig) -> int:
        """Give the lowest free id to a device whose worker is about to be forked.

        Raises:
            HostError: all are taken.
        """
        if device in self._taken:
            raise BackendBug(f"user id of worker: {device}: the last one is not known dead")
        uid = self._lowest(config)
        if uid is None:
            self._look()
            uid = self._lowest(config)
        if uid is None:
            last = config.uid_base + config.uids - 1
            raise HostError(
                f"user id of worker: {device}: all of {config.uid_base}..{last} are taken"
                " (jail.uids)"
            )
        self._taken[device] = uid
        if config.mode != "enforce":
            self._may_fork.add(device)
        return uid

    def release(self, device: DeviceId) -> None:
        """The device's worker is dead. Idempotent."""
        uid = self._taken.pop(device, None)
        if uid is not None and device in self._may_fork:
            self._in_doubt.add(uid)
        self._may_fork.discard(device)

    def _lowest(self, config: JailConfig) -> int | None:
        used = self._in_doubt.union(self._taken.values())
        numbers = range(config.uid_base, config.uid_base + config.uids)
        return next((uid for uid in numbers if uid not in used), None)

    def _look(self) -> None:
        self._in_doubt = set(_user_ids(self._proc))


def _user_ids(proc: Path) -> Iterator[int]:
    """All ids that processes of the host have: real, effective, saved and for file access.

    Not the owner of a process's directory in /proc: that is root if it may not be dumped.
    """
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            lines = (entry / "status").read_bytes().splitlines()
        except OSError:  # it has ended
            continue
        for line in lines:
            if line.startswith(b"Uid:"):
                yield from map(int, line.split()[1:])
