# SPDX-License-Identifier: MIT
"""What workers may ask of the kernel: the allow-lists, as data.

Three parts make up a worker's list: what every worker needs, what its hypervisor and what its
device type needs. A worker is under it from the end of its first `Init` on: files are open, threads
of the bus run, nothing a guest wrote has been looked at. What it does before needs no place here.

What is not on the list kills the worker. An errno stands only where honest code of ours or of a
library asks and goes on without: its `why` says which.

The lists were found by reasoning and by tracing workers under load, in recovery, adoption and
fatal signals (glibc 2.36, CPython 3.11, libzmq 4.3.5); other versions of these make others of
these calls, so whole families stand here (poll, ppoll).
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Final

from shared.worker_spec import HypervisorKind
from worker.jail.rules import INT, LONG, Argument


@dataclass(frozen=True, slots=True)
class Call:
    """One call; several of the same name add up."""

    name: str
    when: tuple[Argument, ...] = ()
    note: str = ""
    """`when`, for people."""
    error: int = 0
    """Answer with this errno instead; looked at after all that is allowed."""


@dataclass(frozen=True, slots=True)
class Group:
    """Calls with one reason."""

    why: str
    calls: tuple[Call, ...]


def _plain(names: str) -> tuple[Call, ...]:
    return tuple(Call(name) for name in names.split())


# Numbers of asm-generic and linux headers, the same on x86_64 and aarch64.

_PROT_EXEC: Final = 0x4
_NOT_EXECUTABLE: Final = (Argument(2, (0,), _PROT_EXEC),)

_THREAD_FLAGS: Final = 0x3D0F00
"""CLONE_VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS, PARENT_SETTID and CHILD_CLEARTID: what
pthread_create passes in glibc; musl adds CLONE_DETACHED, which Linux ignores."""
_CLONE_DETACHED: Final = 0x400000

_BEYOND_JOURNALS: Final = LONG & ~0x1FFFF
"""Bits no length of a journal has: the longest is 65,728 bytes (blk_journal.h)."""

_PR_SET_NAME: Final = 15
_PR_SET_VMA: Final = 0x53564D41

_F_DUPFD_CLOEXEC: Final = 1030
_F_FLAGS: Final = (1, 2, 3, 4)  # F_GETFD, F_SETFD, F_GETFL, F_SETFL

_SCHED_OTHER: Final = 0

_AF_UNIX: Final = 1
_SOL_SOCKET: Final = 1
_SO_ASKED: Final = (4, 17)  # SO_ERROR, SO_PEERCRED
_AT_EMPTY_PATH: Final = 0x1000
_TERMINAL: Final = (0x5401, 0x802C542A)  # TCGETS, and TCGETS2 of newer C libraries

_SECCOMP_SET_MODE_FILTER: Final = 1
_SECCOMP_TSYNC: Final = (1, 3)  # alone and with SECCOMP_FILTER_FLAG_LOG
_PUNCH_HOLE: Final = 0x3  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE


def _ioctls(**numbers: int) -> tuple[Call, ...]:
    return tuple(
        Call("ioctl", (Argument(1, (number,), INT),), name) for name, number in numbers.items()
    )


OWN_PROCESS: Final = 0x7FFFFFFF
"""Stands for the worker's own process id, which no list can know; no process has such an id."""

COMMON: Final[tuple[Group, ...]] = (
    Group(
        "memory: malloc, stacks of threads, shared pages; never executable",
        (
            *_plain("brk munmap mremap madvise"),
            Call("mmap", _NOT_EXECUTABLE, "without PROT_EXEC"),
            Call("mprotect", _NOT_EXECUTABLE, "without PROT_EXEC"),
        ),
    ),
    Group(
        "threads: libzmq's, and those of I/O, which are started when first needed",
        (
            Call(
                "clone",
                (Argument(0, (_THREAD_FLAGS, _THREAD_FLAGS | _CLONE_DETACHED)),),
                "with the flags of a thread, no others",
            ),
            Call(
                "prctl",
                (Argument(0, (_PR_SET_NAME, _PR_SET_VMA), INT),),
                "PR_SET_NAME, PR_SET_VMA",
            ),
            *_plain("futex set_robust_list rseq sched_yield sched_getaffinity gettid getpid exit"),
        ),
    ),
    Group(
        "how libzmq's threads begin, which may be later than the filter",
        (
            *_plain("sched_getparam sched_getscheduler"),
            Call("sched_setscheduler", (Argument(1, (_SCHED_OTHER,), INT),), "SCHED_OTHER"),
        ),
    ),
    Group(
        "clone3 hides its flags behind a pointer; the C library then takes clone",
        (Call("clone3", error=errno.ENOSYS),),
    ),
    Group(
        "time: where the clock cannot be read without the kernel, and short waits",
        _plain("clock_gettime clock_getres gettimeofday time clock_nanosleep nanosleep"),
    ),
    Group(
        "signals: handlers, and the trace of a worker that is aborted or crashes",
        (
            *_plain("rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack restart_syscall"),
            Call("tgkill", (Argument(0, (OWN_PROCESS,), INT),), "to itself"),
        ),
    ),
    Group(
        "waiting for descriptors, of a supervisor's process too",
        _plain("poll ppoll epoll_wait epoll_pwait epoll_ctl eventfd2 pidfd_open"),
    ),
    Group(
        "descriptors it has; not F_SETOWN, which sends signals",
        (
            *_plain("read write writev close lseek fstat"),
            Call("newfstatat", (Argument(3, (_AT_EMPTY_PATH,), INT),), "AT_EMPTY_PATH"),
            Call(
                "fcntl",
                (Argument(1, (*_F_FLAGS, _F_DUPFD_CLOEXEC), INT),),
                "F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC",
            ),
        ),
    ),
    Group(
        "the bus: connects anew to the next supervisor",
        (
            Call("socket", (Argument(0, (_AF_UNIX,), INT),), "AF_UNIX"),
            *_plain("connect sendto recvfrom getsockname getpeername"),
            Call(
                "getsockopt",
                (Argument(1, (_SOL_SOCKET,), INT), Argument(2, _SO_ASKED, INT)),
                "SO_ERROR, SO_PEERCRED",
            ),
        ),
    ),
    Group("random numbers: libzmq's back-off", _plain("getrandom")),
    Group("sorting in the C library asks how much memory there is", _plain("sysinfo")),
    Group("the end", _plain("exit_group")),
    Group(
        "Python looks whether a file is there, for a module or a line of a traceback",
        tuple(Call(name, error=errno.EACCES) for name in ("stat", "lstat", "newfstatat")),
    ),
    Group(
        "Python asks whether stderr is a terminal before it writes a traceback",
        (Call("ioctl", (Argument(1, _TERMINAL, INT),), "TCGETS, TCGETS2", error=errno.ENOTTY),),
    ),
)


# xen/gntdev.h and xen/evtchn.h: _IOC(_IOC_NONE, type, number, size), with 64-bit pointers.
GNTDEV_MAP_GRANT_REF: Final = 0x184700
GNTDEV_GRANT_COPY: Final = 0x104708

HYPERVISORS: Final[dict[HypervisorKind, tuple[Group, ...]]] = {
    "xen": (
        Group(
            "event channels of the guest's, on the restricted handle",
            _ioctls(
                IOCTL_EVTCHN_BIND_INTERDOMAIN=0x084501,
                IOCTL_EVTCHN_UNBIND=0x044503,
                IOCTL_EVTCHN_NOTIFY=0x044504,
            ),
        ),
        Group(
            "grants",
            _ioctls(
                IOCTL_GNTDEV_MAP_GRANT_REF=GNTDEV_MAP_GRANT_REF,
                IOCTL_GNTDEV_UNMAP_GRANT_REF=0x104701,
                IOCTL_GNTDEV_GET_OFFSET_FOR_VADDR=0x184702,
                IOCTL_GNTDEV_GRANT_COPY=GNTDEV_GRANT_COPY,
            ),
        ),
    ),
    "embedded": (
        Group("calls to the embedded hypervisor and their descriptors", _plain("sendmsg recvmsg")),
    ),
}

HANDLERS: Final[dict[str, tuple[Group, ...]]] = {
    "block": (
        Group(
            "requests of the guest",
            (
                *_plain("preadv2 pwritev2 preadv pwritev fdatasync"),
                Call(
                    "fallocate",
                    (Argument(1, (_PUNCH_HOLE,), INT),),
                    "FALLOC_FL_PUNCH_HOLE and FALLOC_FL_KEEP_SIZE: discard",
                ),
                *_ioctls(BLKDISCARD=0x1277),
            ),
        ),
        Group(
            "size of the image, which may have grown",
            (
                *_plain("fstatfs"),
                *_ioctls(BLKGETSIZE64=0x80081272, BLKSSZGET=0x1268, BLKPBSZGET=0x127B),
            ),
        ),
        Group(
            "the journal of a new connection",
            (
                Call("ftruncate", (Argument(1, (0,), _BEYOND_JOURNALS),), "below 128 KiB"),
                Call(
                    "fallocate",
                    (
                        Argument(1, (0,), INT),
                        Argument(2, (0,)),
                        Argument(3, (0,), _BEYOND_JOURNALS),
                    ),
                    "without flags, the first 128 KiB",
                ),
            ),
        ),
        Group(
            "grants: sealed: a second filter, which can only forbid more",
            (
                Call(
                    "seccomp",
                    (
                        Argument(0, (_SECCOMP_SET_MODE_FILTER,), INT),
                        Argument(1, _SECCOMP_TSYNC),
                    ),
                    "SECCOMP_SET_MODE_FILTER for all threads",
                ),
            ),
        ),
    ),
}
