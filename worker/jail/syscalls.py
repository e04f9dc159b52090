# SPDX-License-Identifier: MIT
"""Numbers of system calls on x86_64 and aarch64.

From arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h of Linux, which
never change a number. `-` means that the machine does not have the call.

The table has only calls that a device may need. A call that is not here cannot be on one of our
lists, and the manifest of another distribution cannot ask for it. So there is no way to start a
program, to make or enter a namespace, to look into another process, to load code into the kernel,
or to give it work that no filter sees (io_uring).
"""

from __future__ import annotations

from typing import Final

from shared.errors import ConfigError
from worker.jail.rules import AARCH64, X86_64, Machine

# name, x86_64, aarch64
_USED: Final = """
brk 12 214
clock_getres 229 114
clock_gettime 228 113
clock_nanosleep 230 115
clone 56 220
clone3 435 435
close 3 57
connect 42 203
epoll_ctl 233 21
epoll_pwait 281 22
epoll_wait 232 -
eventfd2 290 19
exit 60 93
exit_group 231 94
fallocate 285 47
fcntl 72 25
fdatasync 75 83
fstat 5 80
fstatfs 138 44
ftruncate 77 46
futex 202 98
getcwd 79 17
getpeername 52 205
getpid 39 172
getrandom 318 278
getsockname 51 204
getsockopt 55 209
gettid 186 178
gettimeofday 96 169
ioctl 16 29
lseek 8 62
lstat 6 -
madvise 28 233
mmap 9 222
mprotect 10 226
mremap 25 216
munmap 11 215
nanosleep 35 101
newfstatat 262 79
pidfd_open 434 434
poll 7 -
ppoll 271 73
prctl 157 167
preadv 295 69
preadv2 327 286
pwritev 296 70
pwritev2 328 287
read 0 63
recvfrom 45 207
recvmsg 47 212
restart_syscall 219 128
rseq 334 293
rt_sigaction 13 134
rt_sigprocmask 14 135
rt_sigreturn 15 139
sched_getaffinity 204 123
sched_getparam 143 121
sched_getscheduler 145 120
sched_setscheduler 144 119
sched_yield 24 124
seccomp 317 277
sendmsg 46 211
sendto 44 206
set_robust_list 273 99
sigaltstack 131 132
socket 41 198
stat 4 -
sysinfo 99 179
tgkill 234 131
time 201 -
write 1 64
writev 20 66
"""

# Device types of other distributions may also ask for these (DeviceType.system_calls).
_ON_REQUEST: Final = """
copy_file_range 326 285
dup 32 23
epoll_create1 291 20
epoll_pwait2 441 441
faccessat 269 48
faccessat2 439 439
fchmod 91 52
fchmodat 268 53
fchown 93 55
fchownat 260 54
fgetxattr 193 10
flistxattr 196 13
flock 73 32
fremovexattr 199 16
fsetxattr 190 7
fsync 74 82
getdents64 217 61
linkat 265 37
membarrier 324 283
memfd_create 319 279
mkdirat 258 34
mknodat 259 33
mlock 149 228
msync 26 227
munlock 150 229
openat 257 56
openat2 437 437
pipe2 293 59
pread64 17 67
pselect6 270 72
pwrite64 18 68
readahead 187 213
readlinkat 267 78
readv 19 65
recvmmsg 299 243
renameat2 316 276
sendmmsg 307 269
setsockopt 54 208
shutdown 48 210
signalfd4 289 74
socketpair 53 199
splice 275 76
statx 332 291
symlinkat 266 36
sync_file_range 277 84
tee 276 77
timerfd_create 283 85
timerfd_gettime 287 87
timerfd_settime 286 86
unlinkat 263 35
utimensat 280 88
vmsplice 278 75
"""

_COLUMNS: Final = {X86_64.name: 0, AARCH64.name: 1}


def _parse(text: str) -> dict[str, tuple[int | None, ...]]:
    rows = (line.split() for line in text.split("\n") if line)
    return {
        name: tuple(None if number == "-" else int(number) for number in numbers)
        for name, *numbers in rows
    }


_NUMBERS: Final = _parse(_USED) | _parse(_ON_REQUEST)


def names() -> frozenset[str]:
    """All calls that a list may name."""
    return frozenset(_NUMBERS)


def number(machine: Machine, name: str) -> int | None:
    """The call's number; None if this machine does not have it.

    Raises:
        ConfigError: the call is not among `names()`.
    """
    if name not in _NUMBERS:
        raise ConfigError(f"system call: {name!r}: not known, or of no use to a device")
    return _NUMBERS[name][_COLUMNS[machine.name]]
