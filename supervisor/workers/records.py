# SPDX-License-Identifier: MIT
"""What a supervisor leaves for its successor: one file and one lock per device that has a worker.

`<runtime_dir>/workers/<type>-<domid>-<devid>` says which process serves the device and what it was
connected with. It is written before the fork (without a pid), after it and each time its content
changes; a rename puts it in the place of the old one. It is removed when the worker is known dead,
unless failures are remembered: then it stays, without a process. A file that cannot be read counts
as none. It has mode 0600 in a directory of mode 0700: nobody but the supervisor's user can claim
that a process is a worker.

`….lock` is a lock (flock) on the device. The worker inherits the only descriptor that holds it, so
the lock ends with the worker, in any way that it ends, even if the file is lost: this is what keeps
two workers off one device. Neither this lock nor the file is on a disk that outlives the kernel.

A process is known by pid and start time (proc_pid_stat(5), field 22). The descriptor of the
process (pidfd) is opened before the start time is compared. From then on the number may be given
to another process, but the descriptor stays with the one that was compared.

Does not talk to workers and decides nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import select
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from shared.device_id import DeviceId
from shared.device_types import DeviceType
from shared.errors import ConfigError, HostError
from supervisor.policy.restart import Memory
from supervisor.workers.confinement.jails import KeptJail

_log = logging.getLogger("xenbackd.records")

DIRECTORY: Final = "workers"
_LOCK: Final = ".lock"
_NEW: Final = ".new"

_PID_MAX: Final = 1 << 22
"""PID_MAX_LIMIT (linux/threads.h)."""


class WorkerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a file. Fields of a later version are ignored."""

    device: DeviceId
    generation: Annotated[int, Meta(ge=0, lt=1 << 62)]
    handler: str
    options: str
    """`digest` of the handler's options as the worker has them."""
    frontend_path: str
    ring: str = ""
    """`ring_identity` of the frontend when the ring was last handed to the worker."""
    pid: Annotated[int, Meta(ge=1, le=_PID_MAX)] | None = None
    """None before the fork, and for a device that is only remembered for its failures."""
    start_time: int = 0
    """Clock ticks since boot."""
    uid: int = 0
    """User id of its own, which no other worker gets while it lives; 0: it has none."""
    cgroup: str = ""
    """Directory of its control group; "" if it has none of its own."""
    quarantined: bool = False
    held_until: float = 0.0
    """End of the pause before the next worker (CLOCK_MONOTONIC, seconds); 0 if there is none."""
    memory: Memory = Memory()


@dataclass(frozen=True, slots=True)
class Orphan:
    """What was left of one device; `pidfd` is None if its worker is dead or it had none."""

    record: WorkerRecord
    pidfd: int | None


def kept_jails(orphans: Mapping[DeviceId, Orphan]) -> dict[DeviceId, KeptJail]:
    """What living workers of an earlier supervisor have of their jails."""
    return {
        device: KeptJail(orphan.record.uid, orphan.record.cgroup)
        for device, orphan in orphans.items()
        if orphan.pidfd is not None
    }


class Records:
    """The files and locks below one runtime directory."""

    def __init__(self, runtime_dir: Path) -> None:
        self._directory = runtime_dir / DIRECTORY

    def load(self) -> dict[DeviceId, Orphan]:
        """Make the directory, remove what is over, and return what is left.

        Raises:
            HostError: the directory cannot be used.
        """
        found: dict[DeviceId, Orphan] = {}
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            for path in sorted(self._directory.iterdir()):
                if path.suffix == _NEW:
                    path.unlink()
                elif path.suffix != _LOCK and (orphan := _examine(path)) is not None:
                    found[orphan.record.device] = orphan
            for path in self._directory.glob("*" + _LOCK):
                _sweep_lock(path)
        except OSError as error:
            raise HostError(f"records: {self._directory}: {error.strerror}") from error
        return found

    def write(self, record: WorkerRecord) -> None:
        """Replace a device's file. A failure is logged: the worker will be ended, not adopted.

        A crash of the host ends the workers too, so nothing is synchronised to the disk.
        """
        path = self._path(record.device)
        new = path.with_suffix(_NEW)
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.encode(record))
            new.replace(path)
        except OSError as error:
            _log.error("record of worker: %s: %s", record.device, error)

    def remove(self, device: DeviceId) -> None:
        """The worker is known dead, or was never heard of.

        A lock that is still held stays: a fork server that was killed may have forked without
        saying so, and under another lock a second worker would start beside that one.
        """
        with contextlib.suppress(OSError):
            self._path(device).unlink()
        with contextlib.suppress(OSError):
            _sweep_lock(self._lock_path(device))

    def lock(self, device: DeviceId) -> int | None:
        """Take the device: a descriptor that holds it, or None while a worker holds it.

        Raises:
            HostError: the lock cannot be asked for.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(self._lock_path(device), flags, 0o600)
        except OSError as error:
            raise HostError(f"lock of worker: {device}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            os.close(descriptor)
            raise HostError(f"lock of worker: {device}: {error.strerror}") from error
        return descriptor

    def holders(self, device: DeviceId) -> list[int]:
        """Processes that have the device's lock open, as the kernel lists their descriptors."""
        try:
            ours = self._lock_path(device).stat()
        except OSError:
            return []
        same = (ours.st_dev, ours.st_ino)
        return [pid for pid in _processes() if pid != os.getpid() and same in _open_files(pid)]

    def _path(self, device: DeviceId) -> Path:
        return self._directory / str(device).replace("/", "-")

    def _lock_path(self, device: DeviceId) -> Path:
        return self._path(device).with_suffix(_LOCK)


def start_time(pid: int) -> int:
    """Start of a process in clock ticks since boot; 0 if there is none of that number."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    # The second field is the name in parentheses, which the process chooses: any bytes.
    return int(stat.rpartition(b")")[2].split()[19])


def digest(value: Any) -> str:
    """Short text that is equal for equal values."""
    data = msgspec.json.encode(value, order="sorted")
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def ring_identity(type_: DeviceType, untrusted_frontend: Mapping[str, bytes]) -> str:
    """Short text that changes when a frontend of a device of that type offers another ring."""
    named = {n: value.hex() for n, value in untrusted_frontend.items() if type_.names_ring(n)}
    return digest(named)


def _examine(path: Path) -> Orphan | None:
    try:
        record = msgspec.json.decode(path.read_bytes(), type=WorkerRecord)
        if DeviceId.parse(path.name.replace("-", "/")) != record.device:
            raise ConfigError(f"it is of {record.device}")
    except (
        OSError,
        ConfigError,
        msgspec.MsgspecError,
        UnicodeDecodeError,
        RecursionError,  # arrays within arrays
    ) as error:
        _log.error("record of worker: %s: %s: left out", path, error)
        path.unlink()
        return None
    pidfd = None if record.pid is None else _open_process(record.pid, record.start_time)
    if record.pid is None and not record.quarantined and record.memory == Memory():
        # Its lock file stays: a worker that was forked and not written down yet may hold it.
        path.unlink()
        return None
    return Orphan(record, pidfd)


def _sweep_lock(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    except BlockingIOError:
        return  # held by an orphan, by a child that was being forked, or by one nobody knows of
    finally:
        os.close(descriptor)


def _open_process(pid: int, started: int) -> int | None:
    """Descriptor of the process of that number and start time; None if it is dead."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    if start_time(pid) != started or poller.poll(0):
        os.close(pidfd)
        return None
    return pidfd


def _processes() -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            yield int(entry.name)


def _open_files(pid: int) -> set[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    with contextlib.suppress(OSError):  # it ended, or is not ours to look at
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                stat = entry.stat()
                found.add((stat.st_dev, stat.st_ino))
    return found
