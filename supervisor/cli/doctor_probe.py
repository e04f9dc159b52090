# SPDX-License-Identifier: MIT
"""How `doctor` looks at the host: every question it asks, and the real answers.

Asking changes nothing: no device is opened for use, no module loaded, no file left behind. An
answer that cannot be had counts as "no"; a probe never raises.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import socket
import stat
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

import msgspec

from shared.errors import HostError
from shared.xenstore.blocking import BlockingXenstore
from shared.xenstore.errors import NoEntryError
from shared.xenstore.transport import choose_target

# System call numbers above 423 are the same on all architectures Linux and Xen share
# (include/uapi/asm-generic/unistd.h).
_IO_URING_SETUP: Final = 425
_PIDFD_OPEN: Final = 434
_CLOSE_RANGE: Final = 436
_LANDLOCK_CREATE_RULESET: Final = 444
_XENSTORE_TIMEOUT: Final = 2.0
"""Seconds for one answer of xenstored."""

Transport = Literal["auto", "socket", "device"]

_LANDLOCK_VERSION: Final = 1
"""LANDLOCK_CREATE_RULESET_VERSION: only tell the version (linux/landlock.h)."""


@dataclass(frozen=True, slots=True)
class Directory:
    """Owner and permissions of a directory."""

    uid: int
    mode: int


@dataclass(frozen=True, slots=True)
class Process:
    """A process with the words of its command line."""

    pid: int
    command: tuple[str, ...]


class JailStep(msgspec.Struct, frozen=True):
    """What became of one step of the jail: "done", "left out" or "failed", and why."""

    step: str
    text: str
    outcome: Literal["done", "left out", "failed"]
    reason: str


class Probe(Protocol):
    """The questions. `feature` knows the names in `FEATURES`."""

    def exists(self, path: str) -> bool:
        """Whether there is something at the path."""

    def openable(self, path: str) -> bool:
        """Whether this process may open it for reading and writing."""

    def connectable(self, path: str) -> str:
        """Why a UNIX socket does not accept connections; "" if it does."""

    def read(self, path: str) -> str | None:
        """The stripped text of a small file; None if it cannot be read."""

    def directory(self, path: str) -> Directory | None:
        """Owner and permissions; None if there is no directory."""

    def loadable(self, library: str) -> bool:
        """Whether the dynamic linker finds a library."""

    def import_errors(self, modules: Sequence[str]) -> dict[str, str]:
        """For each Python module why it cannot be imported; "" if it can."""

    def feature(self, name: str) -> bool:
        """Whether the kernel has a feature and lets this process use it."""

    def kernel(self) -> str:
        """Release of the kernel."""

    def python(self) -> tuple[int, int]:
        """Version of this Python."""

    def descriptors(self) -> tuple[int, int]:
        """Soft and hard limit of open descriptors."""

    def uid(self) -> int:
        """Effective user id."""

    def processes(self) -> list[Process]:
        """All processes that can be seen."""

    def jail(self, uid: int) -> list[JailStep] | str:
        """The steps of a worker's jail, tried as that user; a text if they cannot be tried."""

    def backends(
        self, transport: Transport, socket: str, device: str
    ) -> dict[str, frozenset[int]] | None:
        """For each directory below the own `backend/` the guests with a device in it.

        None if xenstored does not answer.
        """


FEATURES: Final = ("pidfd", "close_range", "memfd", "io_uring", "landlock", "RWF_NOWAIT")


class HostProbe:
    """The answers of this host."""

    def exists(self, path: str) -> bool:
        """See `Probe`."""
        return os.path.lexists(path)

    def openable(self, path: str) -> bool:
        """See `Probe`. Asks for the permissions and does not open it."""
        return os.access(path, os.R_OK | os.W_OK, effective_ids=True)

    def connectable(self, path: str) -> str:
        """See `Probe`."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(path)
            except OSError as error:
                return error.strerror or str(error)
        return ""

    def read(self, path: str) -> str | None:
        """See `Probe`."""
        try:
            with Path(path).open("rb") as file:
                return file.read(65536).decode("utf-8", "backslashreplace").strip()
        except OSError:
            return None

    def directory(self, path: str) -> Directory | None:
        """See `Probe`."""
        try:
            found = Path(path).stat()
        except OSError:
            return None
        if not stat.S_ISDIR(found.st_mode):
            return None
        return Directory(found.st_uid, stat.S_IMODE(found.st_mode))

    def loadable(self, library: str) -> bool:
        """See `Probe`."""
        try:
            ctypes.CDLL(library)
        except OSError:
            return False
        return True

    def import_errors(self, modules: Sequence[str]) -> dict[str, str]:
        """See `Probe`. Never in this process: a broken native module may do anything."""
        # All in one process, as almost always all is well; one by one to find who is not.
        if not _import(modules):
            return dict.fromkeys(modules, "")
        return {module: _import([module]) for module in modules}

    def feature(self, name: str) -> bool:
        """See `Probe`."""
        match name:
            case "pidfd":
                return _closed(_syscall(_PIDFD_OPEN, os.getpid(), 0))
            case "close_range":  # of the last number there is: closes nothing
                return _syscall(_CLOSE_RANGE, 0xFFFFFFFF, 0xFFFFFFFF, 0) == 0
            case "memfd":
                return _memfd()
            case "io_uring":  # without parameters: EFAULT or EINVAL if it is there for us
                return _syscall(_IO_URING_SETUP, 1, 0) in (-errno.EFAULT, -errno.EINVAL)
            case "landlock":
                return _syscall(_LANDLOCK_CREATE_RULESET, 0, 0, _LANDLOCK_VERSION) > 0
            case "RWF_NOWAIT":
                return _nowait()
        raise ValueError(f"unknown feature {name!r}")

    def kernel(self) -> str:
        """See `Probe`."""
        return platform.release()

    def python(self) -> tuple[int, int]:
        """See `Probe`."""
        return sys.version_info[:2]

    def descriptors(self) -> tuple[int, int]:
        """See `Probe`."""
        return resource.getrlimit(resource.RLIMIT_NOFILE)

    def uid(self) -> int:
        """See `Probe`."""
        return os.geteuid()

    def processes(self) -> list[Process]:
        """See `Probe`."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                command = self.read(f"/proc/{entry.name}/cmdline")
                if command:
                    found.append(Process(int(entry.name), tuple(command.split("\0"))))
        return sorted(found, key=lambda process: process.pid)

    def jail(self, uid: int) -> list[JailStep] | str:
        """See `Probe`. Of the worker's code, which nothing here imports."""
        try:
            done = _python("-m", "worker.jail", "--json", "--uid", str(uid))
            return msgspec.json.decode(done.stdout, type=list[JailStep])
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        except msgspec.MsgspecError:
            return _last_line(done)

    def backends(
        self, transport: Transport, socket: str, device: str
    ) -> dict[str, frozenset[int]] | None:
        """See `Probe`."""
        try:
            target = choose_target(transport, socket, device)
            with BlockingXenstore(target, timeout=_XENSTORE_TIMEOUT) as xenstore:
                return {
                    kind: frozenset(
                        int(domid)
                        for domid in _children(xenstore, f"backend/{kind}")
                        if domid.isdigit() and _children(xenstore, f"backend/{kind}/{domid}")
                    )
                    for kind in _children(xenstore, "backend")
                }
        except HostError:
            return None


def _children(xenstore: BlockingXenstore, path: str) -> list[str]:
    try:
        return xenstore.directory(path)
    except NoEntryError:
        return []


def _import(modules: Sequence[str]) -> str:
    """Import modules in a new process; "" or the error."""
    program = f"import importlib\nfor name in {list(modules)!r}: importlib.import_module(name)"
    try:
        done = _python("-c", program)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return _last_line(done) if done.returncode else ""


def _python(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run our Python with our packages."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=20,
        check=False,
    )


def _last_line(done: subprocess.CompletedProcess[bytes]) -> str:
    """What it said last, which is what it failed of."""
    lines = done.stderr.decode("utf-8", "backslashreplace").strip().splitlines()
    return lines[-1] if lines else f"exit status {done.returncode}"


def _syscall(number: int, *arguments: int) -> int:
    """The result of a system call, or the negative errno."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    result = libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
    return int(result) if result >= 0 else -ctypes.get_errno()


def _closed(descriptor: int) -> bool:
    if descriptor >= 0:
        os.close(descriptor)
    return descriptor >= 0


def _memfd() -> bool:
    try:
        return _closed(os.memfd_create("xenbackd-doctor", os.MFD_CLOEXEC))
    except OSError:
        return False


def _nowait() -> bool:
    # Of a file that lies in the page cache for sure: this interpreter's.
    try:
        descriptor = os.open(sys.executable, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.preadv(descriptor, [bytearray(1)], 0, os.RWF_NOWAIT)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
