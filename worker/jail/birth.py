# SPDX-License-Identifier: MIT
"""Steps of the jail at birth, while the process has one thread and no data of a guest.

The kernel keeps some attributes per thread: capabilities, no_new_privs, Landlock, and the view of
the file system once it is no longer shared. A thread passes them to threads that it starts, but not
to threads that exist already. So these steps come before libzmq starts its threads.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.worker_spec import HypervisorKind
from worker.jail import kernel
from worker.jail.kernel import Capability
from worker.jail.step import LeftOutError

NEEDED_UNTIL_ENTRY: Final = (
    Capability.DAC_OVERRIDE,  # images, the journal and /dev/xen may belong to any user
    Capability.DAC_READ_SEARCH,
    Capability.SYS_ADMIN,  # mount and pivot_root
    Capability.SYS_CHROOT,  # where the root cannot be pivoted away
    Capability.SETGID,
    Capability.SETUID,
)
"""Capabilities that a worker of root keeps between birth and entry; it loses them with the uid."""
_NEEDED_MASK: Final = sum(1 << one for one in NEEDED_UNTIL_ENTRY)


@dataclass(frozen=True, slots=True)
class JoinControlGroup:
    """The control group that the supervisor made limits memory, processes, CPU and I/O."""

    directory: str
    name: str = "cgroup"

    def describe(self) -> str:
        return f"control group {self.directory}"

    def execute(self) -> None:
        processes = os.open(f"{self.directory}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(processes, b"%d\n" % os.getpid())
        finally:
            os.close(processes)


@dataclass(frozen=True, slots=True)
class OwnSession:
    """The process has no terminal and gets no signals for the supervisor's process group."""

    name: str = "session"

    def describe(self) -> str:
        return "session of its own"

    def execute(self) -> None:
        try:
            os.setsid()
        except PermissionError:
            raise LeftOutError("leads a process group already") from None


@dataclass(frozen=True, slots=True)
class CloseDescriptors:
    """Only the standard descriptors and the named ones stay open."""

    keep: tuple[int, ...]
    name: str = "descriptors"

    def describe(self) -> str:
        kept = ", ".join(str(fd) for fd in sorted({0, 1, 2, *self.keep}))
        return f"descriptors closed but {kept}; 0 is /dev/null, 1 is 2"

    def execute(self) -> None:
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(null, 0, inheritable=False)
        os.dup2(2, 1, inheritable=False)
        edges = [*sorted({0, 1, 2, *self.keep}), 0xFFFFFFFF + 1]
        for below, above in itertools.pairwise(edges):
            if below + 1 < above:
                _close(below + 1, above - 1)


def _close(first: int, last: int) -> None:
    try:
        kernel.close_range(first, last)
    except OSError as error:
        if error.errno != errno.ENOSYS:  # Linux before 5.9
            raise
        for entry in list(Path("/proc/self/fd").iterdir()):
            if first <= int(entry.name) <= last:
                with contextlib.suppress(OSError):
                    os.close(int(entry.name))


@dataclass(frozen=True, slots=True)
class EmptyEnvironment:
    """Removes the supervisor's environment from this process."""

    name: str = "environment"

    def describe(self) -> str:
        return "environment empty"

    def execute(self) -> None:
        os.environ.clear()


@dataclass(frozen=True, slots=True)
class OwnerOnly:
    """Files that the worker makes are for their owner only."""

    name: str = "umask"

    def describe(self) -> str:
        return "umask 077"

    def execute(self) -> None:
        os.umask(0o077)


_STACK: Final = 8
"""MiB of a thread's stack, which the C library takes from the usual RLIMIT_STACK."""

MAPPED: Final[dict[HypervisorKind, int]] = {"xen": 1024, "embedded": 16_384 + 1024}
"""MiB for the guest's pages and for code. The embedded hypervisor's library maps all memory of a
guest, to which `xenbackd guest create` gives at most 16 GiB."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Resource limits (setrlimit). The size of files is not limited: images may have any size.

    All mapped memory counts, used or not: each thread has a stack of `_STACK`, and the guest's
    pages are mapped too. So these limits are loose; the tight limit is that of a control group.
    """

    open_files: int
    processes: int | None
    """None: other processes share the user id, and their threads would count."""
    memory: int
    """MiB of data, without stacks."""
    stacks: int
    mapped: int
    """MiB that may be mapped in addition."""
    name: str = "limits"

    def describe(self) -> str:
        processes = "" if self.processes is None else f", threads {self.processes}"
        return (
            f"limits: descriptors {self.open_files}{processes}, data {self._data} MiB,"
            f" mapped {self._data + self.mapped} MiB; no core, queues, locked memory"
        )

    @property
    def _data(self) -> int:
        return self.memory + self.stacks * _STACK

    def execute(self) -> None:
        limits = {
            resource.RLIMIT_NOFILE: self.open_files,
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_MSGQUEUE: 0,
            resource.RLIMIT_MEMLOCK: 0,
            # Private writable pages (since Linux 4.7), and all mappings.
            resource.RLIMIT_DATA: self._data << 20,
            resource.RLIMIT_AS: (self._data + self.mapped) << 20,
        }
        if self.processes is not None:
            limits[resource.RLIMIT_NPROC] = self.processes
        for which, wanted in limits.items():
            hard = resource.getrlimit(which)[1]
            value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(which, (value, value))


@dataclass(frozen=True, slots=True)
class NotSpared:
    """Lets the kernel kill this worker when the host runs out of memory. The supervisor's unit
    protects the supervisor from that (OOMScoreAdjust=), and children inherit the protection. But a
    worker can be replaced, and one that was taken over may be the cause.
    """

    name: str = "oom-score"

    def describe(self) -> str:
        return "not spared when memory is short"

    def execute(self) -> None:
        try:
            score = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise LeftOutError("/proc is not mounted") from None
        try:
            if int(os.read(score, 16)) < 0:
                os.pwrite(score, b"0", 0)
        finally:
            os.close(score)


@dataclass(frozen=True, slots=True)
class NoNewPrivileges:
    """Executing a program gives no privileges. Without privileges, a filter needs this too."""

    name: str = "no_new_privs"

    def describe(self) -> str:
        return "no new privileges"

    def execute(self) -> None:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace of the worker's own."""

    flag: int
    name: str
    text: str

    def describe(self) -> str:
        return self.text

    def execute(self) -> None:
        try:
            kernel.unshare(self.flag)
        except OSError as error:
            if error.errno in kernel.UNKNOWN:
                raise LeftOutError("this kernel has no such namespaces") from None
            raise
        if self.flag == kernel.CLONE_NEWNS:
            # An unmount on the host reaches this namespace; a mount here does not reach the host.
            kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_SLAVE)


NAMESPACES: Final = (
    Namespace(kernel.CLONE_NEWNS, "mounts", "mount namespace of its own"),
    Namespace(kernel.CLONE_NEWIPC, "ipc", "IPC namespace of its own"),
    Namespace(kernel.CLONE_NEWUTS, "uts", "UTS namespace of its own"),
)


@dataclass(frozen=True, slots=True)
class DropCapabilities:
    """Executing a program gives no capabilities, and those that entry does not need are dropped."""

    name: str = "capabilities"

    def describe(self) -> str:
        return "bounding, ambient and inheritable capabilities empty"

    def execute(self) -> None:
        # The bounding set first: it needs a capability that is dropped next.
        kernel.drop_bounding_set()
        with contextlib.suppress(OSError):  # before Linux 4.3 there was no ambient set
            kernel.prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_CLEAR_ALL)
        kept = kernel.capget().permitted & _NEEDED_MASK
        kernel.capset(kernel.Capabilities(kept, kept, 0))
