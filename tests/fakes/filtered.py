# SPDX-License-Identifier: MIT
"""What happens to processes under a worker's filter: `python -m tests.fakes.filtered TYPE`.

Forks once for each case, puts the child under the system-call filter of a worker of that device
type on the embedded hypervisor, has it do one thing and prints {case: how it ended} as JSON: an
exit status (0, or the errno of the call), or minus the signal.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import platform
import resource
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

import worker.trace
from shared.worker_spec import HypervisorKind
from worker.jail import seccomp, syscalls
from worker.jail.filters import Mode, filter_for, this_machine

libc = ctypes.CDLL(None, use_errno=True)
ERROR = 99
"""Exit status of a case that failed in a way nobody expected."""
GNTDEV_MAP = 0x184700
HANDLER = sys.argv[1] if __name__ == "__main__" else ""
"""The device type; none where this is only asked for the names of the cases."""

_COLUMN = {"x86_64": 0, "aarch64": 1}.get(platform.machine(), 0)

# name: numbers on x86_64 and aarch64 (None: there is none), arguments
_FORBIDDEN: dict[str, tuple[tuple[int | None, int | None], tuple[int, ...]]] = {
    "open": ((2, None), (0, 0)),
    "openat": ((257, 56), (-100, 0, 0)),
    "openat2": ((437, 437), (-100, 0, 0, 0)),
    "open_by_handle_at": ((304, 265), (0, 0, 0)),
    "readlinkat": ((267, 78), (-100, 0, 0, 0)),
    "execve": ((59, 221), (0, 0, 0)),
    "execveat": ((322, 281), (0, 0, 0, 0, 0)),
    "fork": ((57, None), ()),
    "vfork": ((58, None), ()),
    "clone as fork": ((56, 220), (17, 0, 0, 0, 0)),
    "clone with a namespace": ((56, 220), (0x10000000 | 17, 0, 0, 0, 0)),
    "ptrace": ((101, 117), (0, 1, 0, 0)),
    "process_vm_readv": ((310, 270), (1, 0, 0, 0, 0, 0)),
    "process_vm_writev": ((311, 271), (1, 0, 0, 0, 0, 0)),
    "process_madvise": ((440, 440), (-1, 0, 0, 0, 0)),
    "kcmp": ((312, 272), (1, 1, 0, 0, 0)),
    "kill of itself": ((62, 129), (0, 0)),
    "kill of all": ((62, 129), (-1, 0)),
    "tkill": ((200, 130), (1, 0)),
    "tgkill of another": ((234, 131), (1, 1, 0)),
    "pidfd_send_signal": ((424, 424), (0, 0, 0, 0)),
    "pidfd_getfd": ((438, 438), (0, 0, 0)),
    "rt_sigqueueinfo": ((129, 138), (1, 0, 0)),
    "io_uring_setup": ((425, 425), (1, 0)),
    "io_uring_enter": ((426, 426), (0, 0, 0, 0, 0, 0)),
    "io_setup": ((206, 0), (1, 0)),
    "bpf": ((321, 280), (0, 0, 0)),
    "perf_event_open": ((298, 241), (0, 0, 0, 0, 0)),
    "userfaultfd": ((323, 282), (1,)),
    "unshare": ((272, 97), (0x10000000,)),
    "setns": ((308, 268), (0, 0)),
    "mount": ((165, 40), (0, 0, 0, 0, 0)),
    "umount2": ((166, 39), (0, 0)),
    "move_mount": ((429, 429), (0, 0, 0, 0, 0)),
    "open_tree": ((428, 428), (-100, 0, 0)),
    "fsopen": ((430, 430), (0, 0)),
    "pivot_root": ((155, 41), (0, 0)),
    "chroot": ((161, 51), (0,)),
    "keyctl": ((250, 219), (0, 0)),
    "add_key": ((248, 217), (0, 0, 0, 0, 0)),
    "request_key": ((249, 218), (0, 0, 0, 0)),
    "capset": ((126, 91), (0, 0)),
    "setuid": ((105, 146), (0,)),
    "setresuid": ((117, 147), (0, 0, 0)),
    "setgroups": ((116, 159), (0, 0)),
    "setrlimit": ((160, 164), (0, 0)),
    "prlimit64": ((302, 261), (0, 0, 0, 0)),
    "prctl dumpable": ((157, 167), (4, 1, 0, 0, 0)),
    "prctl seccomp": ((157, 167), (22, 1, 0, 0, 0)),
    "seccomp strict": ((317, 277), (0, 0, 0)),
    "seccomp listener": ((317, 277), (1, 8, 0)),
    "personality": ((135, 92), (0x400000,)),
    "mmap executable": ((9, 222), (0, 4096, 5, 0x22, -1, 0)),
    "mprotect executable": ((10, 226), (0, 4096, 4)),
    "pkey_mprotect": ((329, 288), (0, 4096, 4, 0)),
    "remap_file_pages": ((216, 234), (0, 0, 0, 0, 0)),
    "memfd_create": ((319, 279), (0, 0)),
    "memfd_secret": ((447, 447), (0,)),
    "shmget": ((29, 194), (0, 4096, 0)),
    "msgget": ((68, 186), (0, 0)),
    "semget": ((64, 190), (0, 1, 0)),
    "socket of the internet": ((41, 198), (2, 1, 0)),
    "socket of netlink": ((41, 198), (16, 3, 0)),
    "socket of packets": ((41, 198), (17, 3, 0)),
    "bind": ((49, 200), (0, 0, 0)),
    "listen": ((50, 201), (0, 1)),
    "accept4": ((288, 242), (0, 0, 0, 0)),
    "ioctl TIOCSTI": ((16, 29), (0, 0x5412, 0)),
    "ioctl FIOSETOWN": ((16, 29), (0, 0x8901, 0)),
    "fcntl F_SETOWN": ((72, 25), (0, 8, 1)),
    "fallocate collapse": ((285, 47), (0, 8, 0, 0)),
    "chmod": ((268, 53), (-100, 0, 0)),
    "unlinkat": ((263, 35), (-100, 0, 0)),
    "renameat2": ((316, 276), (-100, 0, -100, 0, 0)),
    "mknodat": ((259, 33), (-100, 0, 0, 0)),
    "mkdirat": ((258, 34), (-100, 0, 0)),
    "inotify_init1": ((294, 26), (0,)),
    "fanotify_init": ((300, 262), (0, 0)),
    "init_module": ((175, 105), (0, 0, 0)),
    "finit_module": ((313, 273), (0, 0, 0)),
    "kexec_load": ((246, 104), (0, 0, 0, 0)),
    "reboot": ((169, 142), (0, 0, 0, 0)),
    "swapon": ((167, 224), (0, 0)),
    "iopl": ((172, None), (3,)),
    "modify_ldt": ((154, None), (0, 0, 0)),
    "arch_prctl": ((158, None), (0x1003, 0)),
    "settimeofday": ((164, 170), (0, 0)),
    "sched_setscheduler real-time": ((144, 119), (0, 1, 0)),
    "setsockopt": ((54, 208), (0, 1, 26, 0, 0)),
    "setpriority": ((141, 140), (0, 0, 0)),
    "landlock_create_ruleset": ((444, 444), (0, 0, 1)),
    "a number of the future": ((9999, 9999), ()),
    "number -1": ((-1, None), ()),
    "x32 getpid": ((0x40000027, None), ()),
}


def _raw(number: int, *arguments: int) -> int:
    """0, or the errno of a call made past the C library's wrappers."""
    ctypes.set_errno(0)
    words = [ctypes.c_long(argument) for argument in arguments]
    return ctypes.get_errno() if libc.syscall(ctypes.c_long(number), *words) < 0 else 0


def _named(name: str, *arguments: int) -> int:
    number = syscalls.number(this_machine(), name)
    assert number is not None
    return _raw(number, *arguments)


def _threads() -> int:
    results: list[int] = []
    threads = [threading.Thread(target=results.append, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 0 if sorted(results) == [0, 1, 2] else ERROR


def _waiting() -> int:
    event = os.eventfd(1)
    poller = select.poll()
    poller.register(event, select.POLLIN)
    poller.register(os.pidfd_open(os.getpid()), select.POLLIN)
    return 0 if poller.poll(0) == [(event, select.POLLIN)] else ERROR


def _memory() -> int:
    with mmap.mmap(-1, 1 << 20) as area:
        area[:4] = b"mine"
        return 0 if len(bytes(8 << 20)) == 8 << 20 else ERROR


def _unix_socket() -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
        return one.connect_ex("/nonexistent/socket")


def _look() -> int:
    try:
        os.stat("/")  # noqa: PTH116
    except OSError as error:
        return error.errno or ERROR
    return 0


def _abort() -> int:
    os.abort()


def _sealed() -> int:
    before = _named("ioctl", 0, GNTDEV_MAP, 0)
    seccomp.seal()
    after = _named("ioctl", 0, GNTDEV_MAP, 0)
    return after if before == errno.ENOTTY else ERROR


def _in_a_thread_that_was_there() -> NoReturn:
    """A thread older than the filter makes a forbidden call."""
    installed = threading.Event()

    def forbidden() -> None:
        installed.wait()
        _named("openat", -100, 0, 0)

    thread = threading.Thread(target=forbidden)
    thread.start()
    _install()
    installed.set()
    thread.join()
    os._exit(0)


def _beside_another_filter() -> NoReturn:
    """A thread put itself under a filter of its own: TSYNC cannot bring it under ours."""
    own, done = threading.Event(), threading.Event()
    found: list[int] = []

    def alone() -> None:
        program = filter_for(HANDLER, "embedded", "log")
        buffer = ctypes.create_string_buffer(program)
        fields = (len(program) // 8).to_bytes(8, "little")
        fields += ctypes.addressof(buffer).to_bytes(8, "little")
        fprog = ctypes.create_string_buffer(fields)
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        found.append(_named("seccomp", 1, 0, ctypes.addressof(fprog)))
        found.append(threading.get_native_id())
        own.set()
        done.wait()

    thread = threading.Thread(target=alone)
    thread.start()
    own.wait()
    try:
        _install()
    except Exception as error:  # noqa: BLE001 - its text is what the case is about
        wanted = f"system-call filter: thread {found[1]}: is under another filter already"
        os._exit(0 if found[0] == 0 and str(error) == wanted else ERROR)
    os._exit(ERROR)


def _i386_entry(filtered: bool) -> Callable[[], NoReturn]:
    """`int $0x80` from 64-bit code: getpid (20) of the other table, 39 is mkdir there."""

    def body() -> NoReturn:
        # mov $20, %eax; int $0x80; ret
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(bytes.fromhex("b814000000cd80c3"))
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        call = ctypes.CFUNCTYPE(ctypes.c_int)(address)
        if filtered:
            _install()
        os._exit(0 if call() == os.getpid() else ERROR)

    return body


def _under(
    action: Callable[..., int],
    *arguments: int,
    hypervisor: HypervisorKind = "embedded",
    mode: Mode = "enforce",
) -> Callable[[], NoReturn]:
    def body() -> NoReturn:
        _install(hypervisor, mode)
        os._exit(action(*arguments))

    return body


def _install(hypervisor: HypervisorKind = "embedded", mode: Mode = "enforce") -> None:
    seccomp.install(filter_for(HANDLER, hypervisor, mode), log=mode == "log")


FORBIDDEN = {name: numbers[_COLUMN] for name, (numbers, _) in _FORBIDDEN.items()}
"""Number of each forbidden call on this machine; None where there is none."""

ALLOWED = {
    "threads": (_threads, 0),
    "waiting": (_waiting, 0),
    "memory": (_memory, 0),
    "connecting": (_unix_socket, errno.ENOENT),
    "looking for a file": (_look, errno.EACCES),
    "asking for a terminal": (lambda: int(os.isatty(0)), 0),
    "asking for the directory": (lambda: 0 if os.getcwd() else ERROR, 0),  # noqa: PTH109
    "clone3": (lambda: _named("clone3", 0, 0), errno.ENOSYS),
}
"""What a worker may do, and the status its process then ends with."""


def cases() -> dict[str, Callable[[], NoReturn]]:
    """Everything, by name; each is run in a process of its own."""
    bodies: dict[str, Callable[[], NoReturn]] = {
        name: _under(action) for name, (action, _) in ALLOWED.items()
    }
    for name, number in FORBIDDEN.items():
        if number is not None:
            bodies[name] = _under(_raw, number, *_FORBIDDEN[name][1])
    bodies["abort"] = _under(_abort)
    bodies["log: openat"] = _under(lambda: _named("openat", -100, 0, 0), mode="log")
    bodies["sealed"] = _under(_sealed, hypervisor="xen")
    bodies["older thread"] = _in_a_thread_that_was_there
    bodies["other filter"] = _beside_another_filter
    if platform.machine() == "x86_64":
        bodies["i386 entry"] = _i386_entry(filtered=True)
        bodies["i386 entry without a filter"] = _i386_entry(filtered=False)
    return bodies


def outcome(body: Callable[[], NoReturn]) -> int:
    """How a child that runs it ends."""
    pid = os.fork()
    if pid == 0:
        try:
            body()
        except BaseException as error:  # noqa: BLE001 - this process must not go on
            sys.stderr.write(f"{error!r}\n")
        finally:
            os._exit(ERROR)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> None:
    """Run all cases and print how they ended."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGSYS, lambda *_: os._exit(ERROR))  # in vain
    worker.trace.install()
    print(json.dumps({name: outcome(body) for name, body in cases().items()}))  # noqa: T201


if __name__ == "__main__":
    main()
