# SPDX-License-Identifier: MIT
"""The system calls that workers may make: the allow-lists, as data.

A worker's list has three parts: what every worker needs, what its hypervisor needs, and what its
device type lists in its manifest (shared.device_types). The list is in force from the end of the
first `Init`: by then the files are open and the threads of the bus run, and the worker has not yet
looked at anything that a guest wrote. Calls that it makes only before that are not listed.

A call that is not on the list kills the worker. An errno is used only where honest code, ours or a
library's, makes the call and can do without its result; the `why` says which code.

The lists were found by reasoning, and by tracing workers under load, in recovery, adoption and
fatal signals (glibc 2.36, CPython 3.11 and 3.13, libzmq 4.3.5). Other versions make similar calls,
so whole families are listed (poll, ppoll).
"""

from __future__ import annotations

import errno
from typing import Final

from shared.system_calls import INT, Argument, Call, Group, ioctls, plain
from shared.worker_spec import HypervisorKind

# Numbers from asm-generic and linux headers, the same on x86_64 and aarch64.

_PROT_EXEC: Final = 0x4
_NOT_EXECUTABLE: Final = (Argument(2, (0,), _PROT_EXEC),)

_THREAD_FLAGS: Final = 0x3D0F00
"""CLONE_VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS, PARENT_SETTID and CHILD_CLEARTID: what
pthread_create passes in glibc; musl adds CLONE_DETACHED, which Linux ignores."""
_CLONE_DETACHED: Final = 0x400000

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


OWN_PROCESS: Final = 0x7FFFFFFF
"""Stands for the worker's own process id, which no list can know. No process has this id."""

COMMON: Final[tuple[Group, ...]] = (
    Group(
        "memory: malloc, stacks of threads, shared pages; never executable",
        (
            *plain("brk munmap mremap madvise"),
            Call("mmap", _NOT_EXECUTABLE, "without PROT_EXEC"),
            Call("mprotect", _NOT_EXECUTABLE, "without PROT_EXEC"),
        ),
    ),
    Group(
        "threads: those of libzmq, and those for I/O, which are started when first needed",
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
            *plain("futex set_robust_list rseq sched_yield sched_getaffinity gettid getpid exit"),
        ),
    ),
    Group(
        "the start of libzmq's threads, which may come after the filter",
        (
            *plain("sched_getparam sched_getscheduler"),
            Call("sched_setscheduler", (Argument(1, (_SCHED_OTHER,), INT),), "SCHED_OTHER"),
        ),
    ),
    Group(
        "clone3 hides its flags behind a pointer; the C library then takes clone",
        (Call("clone3", error=errno.ENOSYS),),
    ),
    Group(
        "time: the clock, where it cannot be read without the kernel, and short waits",
        plain("clock_gettime clock_getres gettimeofday time clock_nanosleep nanosleep"),
    ),
    Group(
        "signals: handlers, and the trace when a worker is aborted or crashes",
        (
            *plain("rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack restart_syscall"),
            Call("tgkill", (Argument(0, (OWN_PROCESS,), INT),), "to itself"),
        ),
    ),
    Group(
        "waiting for descriptors, including that of the supervisor's process",
        plain("poll ppoll epoll_wait epoll_pwait epoll_ctl eventfd2 pidfd_open"),
    ),
    Group(
        "open descriptors; not F_SETOWN, which sends signals",
        (
            *plain("read write writev close lseek fstat"),
            Call("newfstatat", (Argument(3, (_AT_EMPTY_PATH,), INT),), "AT_EMPTY_PATH"),
            Call(
                "fcntl",
                (Argument(1, (*_F_FLAGS, _F_DUPFD_CLOEXEC), INT),),
                "F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC",
            ),
        ),
    ),
    Group(
        "the bus: it connects again to the next supervisor",
        (
            Call("socket", (Argument(0, (_AF_UNIX,), INT),), "AF_UNIX"),
            *plain("connect sendto recvfrom getsockname getpeername"),
            Call(
                "getsockopt",
                (Argument(1, (_SOL_SOCKET,), INT), Argument(2, _SO_ASKED, INT)),
                "SO_ERROR, SO_PEERCRED",
            ),
        ),
    ),
    Group("random numbers: libzmq's back-off", plain("getrandom")),
    Group("sorting in the C library asks how much memory there is", plain("sysinfo")),
    Group("the end", plain("exit_group")),
    Group(
        "Python looks for files: modules, and source lines for a traceback",
        tuple(Call(name, error=errno.EACCES) for name in ("stat", "lstat", "newfstatat")),
    ),
    Group(
        "Python compares its directory with that of a module in which a name is missing",
        plain("getcwd"),  # since 3.13, to say that the module hides one of the library's
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
            ioctls(
                IOCTL_EVTCHN_BIND_INTERDOMAIN=0x084501,
                IOCTL_EVTCHN_UNBIND=0x044503,
                IOCTL_EVTCHN_NOTIFY=0x044504,
            ),
        ),
        Group(
            "grants",
            ioctls(
                IOCTL_GNTDEV_MAP_GRANT_REF=GNTDEV_MAP_GRANT_REF,
                IOCTL_GNTDEV_UNMAP_GRANT_REF=0x104701,
                IOCTL_GNTDEV_GET_OFFSET_FOR_VADDR=0x184702,
                IOCTL_GNTDEV_GRANT_COPY=GNTDEV_GRANT_COPY,
            ),
        ),
    ),
    "embedded": (
        Group("calls to the embedded hypervisor and their descriptors", plain("sendmsg recvmsg")),
    ),
}
