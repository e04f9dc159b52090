# SPDX-License-Identifier: MIT
"""What an attacker tries who runs code of his own in a worker: one function for each attempt.

Each takes a text (a path, a process id) and returns if the attempt has succeeded. A refusal is the
OSError that comes of it. What would do harm outside of the test if it succeeded asks for something
harmless in the same way.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from shared import messages as m
from shared.device_id import DeviceId

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mmap.restype = ctypes.c_void_p

# Numbers of system calls the C library has no function for (asm/unistd.h).
_ARM = platform.machine() == "aarch64"
_KEYCTL: Final = 219 if _ARM else 250
_USERFAULTFD: Final = 282 if _ARM else 323
_BPF: Final = 280 if _ARM else 321
_PERF_EVENT_OPEN: Final = 241 if _ARM else 298
_IO_URING_SETUP: Final = 425
_PIDFD_GETFD: Final = 438

_PTRACE_ATTACH: Final = 16
_CLONE_NEWUSER: Final = 0x10000000
_PR_SET_DUMPABLE: Final = 4
_PATIENCE: Final = 30.0

SUCCESS: Final = 1
REFUSED: Final = 1000
"""Added to the errno of a refusal, where an outcome is told as a number."""


def _call(function: Callable[..., int], *arguments: object) -> None:
    """A function of the C library, or a system call; raises OSError."""
    if function(*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _syscall(number: int, *arguments: int) -> None:
    _call(_libc.syscall, ctypes.c_long(number), *map(ctypes.c_long, arguments))


def open_file(path: str) -> None:
    os.close(os.open(path, os.O_RDONLY))


def write_file(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))


def remove_file(path: str) -> None:
    Path(path).unlink()


def look_at_file(path: str) -> None:
    Path(path).stat()


def list_root(_: str) -> None:
    """Succeeds if there is anything in it but what leads to the bus."""
    if len(list(Path("/").iterdir())) <= 1:
        raise OSError(errno.ENOENT, "nothing there")


def connect_inet(port: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as one:
        one.connect(("127.0.0.1", int(port)))


def connect_unix(path: str) -> None:
    """`@name` is an abstract socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
        one.connect("\0" + path[1:] if path.startswith("@") else path)


def kill(pid: str) -> None:
    os.kill(int(pid), 0)


def kill_by_descriptor(pid: str) -> None:
    descriptor = os.pidfd_open(int(pid))
    try:
        signal.pidfd_send_signal(descriptor, 0)
    finally:
        os.close(descriptor)


def take_descriptor(pid: str) -> None:
    descriptor = os.pidfd_open(int(pid))
    try:
        _syscall(_PIDFD_GETFD, descriptor, 0, 0)
    finally:
        os.close(descriptor)


def trace(pid: str) -> None:
    _call(_libc.ptrace, _PTRACE_ATTACH, int(pid), 0, 0)


def read_memory(pid: str) -> None:
    here = ctypes.create_string_buffer(8)
    local = (ctypes.c_void_p * 2)(ctypes.addressof(here), 8)
    # Where a page of nobody's is: who may read at all is told EFAULT.
    remote = (ctypes.c_void_p * 2)(4096, 8)
    try:
        _call(_libc.process_vm_readv, int(pid), local, 1, remote, 1, 0)
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise


def fork(_: str) -> None:
    """As many as there can be; succeeds if there is no end to them."""
    children: list[int] = []
    try:
        while len(children) < 1000:
            child = os.fork()
            if child == 0:
                signal.pause()
                os._exit(0)
            children.append(child)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def start_threads(_: str) -> None:
    """The same with threads."""
    enough = threading.Event()
    started: list[threading.Thread] = []
    try:
        while len(started) < 1000:
            one = threading.Thread(target=enough.wait, args=(_PATIENCE,))
            one.start()
            started.append(one)
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error)) from error
    finally:
        enough.set()
        for one in started:
            one.join()


def open_descriptors(_: str) -> None:
    """The same with descriptors."""
    some: list[int] = []
    try:
        while len(some) < 1000:
            some.append(os.eventfd(0))
    finally:
        for one in some:
            os.close(one)


def map_memory(_: str) -> None:
    """The same with memory that is private and never touched."""
    some: list[mmap.mmap] = []
    try:
        while len(some) < 1000:
            some.append(mmap.mmap(-1, 32 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    finally:
        for one in some:
            one.close()


def share_pages(_: str) -> None:
    """The same with memory that a child would share."""
    some: list[mmap.mmap] = []
    try:
        while len(some) < 1000:
            some.append(mmap.mmap(-1, 32 << 20, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS))
    finally:
        for one in some:
            one.close()


def execute(path: str) -> None:
    os.execv(path, [path])


def make_executable(_: str) -> None:
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        _call(
            _libc.mprotect, ctypes.c_void_p(address), mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC
        )


def mount(_: str) -> None:
    _call(_libc.mount, b"none", b"/", b"tmpfs", 0, None)


def change_root(_: str) -> None:
    os.chroot("/")


def become_root(_: str) -> None:
    os.setuid(0)


def get_namespace(_: str) -> None:
    _call(_libc.unshare, _CLONE_NEWUSER)


def be_dumpable(_: str) -> None:
    _call(_libc.prctl, _PR_SET_DUMPABLE, 1, 0, 0, 0)


def share_memory(_: str) -> None:
    _call(_libc.shmget, 0x58424445, 4096, 0o1666)


def keys(_: str) -> None:
    _syscall(_KEYCTL, 0, -3, 0)


def fault_handler(_: str) -> None:
    _syscall(_USERFAULTFD, 0)


def load_program(_: str) -> None:
    _syscall(_BPF, 0, 0, 0)


def count_events(_: str) -> None:
    _syscall(_PERF_EVENT_OPEN, 0, 0, 0, 0, 0)


def submit_io(_: str) -> None:
    _syscall(_IO_URING_SETUP, 1, 0)


def speak(where: str) -> None:
    """`path device`: connect to the bus once more and say Hello in the device's name.

    By hand (ZMTP 3.0, rfc.zeromq.org/spec/23), for libzmq would ask for what a jail denies.
    """
    path, _, device = where.partition(" ")
    hello = m.encode(m.Hello(device=DeviceId.parse(device), generation=1, seq=0))
    ready = b"\x05READY\x0bSocket-Type" + len(b"DEALER").to_bytes(4, "big") + b"DEALER"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
        one.connect(path)
        one.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
        one.recv(64, socket.MSG_WAITALL)
        one.sendall(bytes([4, len(ready)]) + ready + bytes([0, len(hello)]) + hello)
        while one.recv(64):  # until the supervisor has had enough
            pass


ATTACKS: Final[dict[str, Callable[[str], None]]] = {
    one.__name__: one
    for one in (
        open_file,
        write_file,
        remove_file,
        look_at_file,
        list_root,
        connect_inet,
        connect_unix,
        kill,
        kill_by_descriptor,
        take_descriptor,
        trace,
        read_memory,
        fork,
        start_threads,
        open_descriptors,
        map_memory,
        share_pages,
        execute,
        make_executable,
        mount,
        change_root,
        become_root,
        get_namespace,
        be_dumpable,
        share_memory,
        keys,
        fault_handler,
        load_program,
        count_events,
        submit_io,
        speak,
    )
}
