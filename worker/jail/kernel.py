# SPDX-License-Identifier: MIT
"""The jail's system calls with Python's errors, and the kernel's numbers for them.

The numbers are from linux/capability.h, linux/prctl.h, linux/sched.h, linux/mount.h and
linux/landlock.h; they are the same on all architectures. This module decides nothing.
"""

from __future__ import annotations

import enum
import errno
import os
from typing import Any, Final, NamedTuple

from worker.jail.native._jail import ffi, lib

# prctl
PR_SET_DUMPABLE: Final = 4
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

# unshare, setns
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWNET: Final = 0x40000000

# mount, umount2
MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_BIND: Final = 4096
MS_MOVE: Final = 8192
MS_REC: Final = 16384
MS_SLAVE: Final = 1 << 19
MNT_DETACH: Final = 2


class Capability(enum.IntEnum):
    """The capabilities that the jail names."""

    DAC_OVERRIDE = 1
    DAC_READ_SEARCH = 2
    SETGID = 6
    SETUID = 7
    SETPCAP = 8
    SYS_CHROOT = 18
    SYS_ADMIN = 21


class Capabilities(NamedTuple):
    """The capability sets of one thread, as masks."""

    effective: int
    permitted: int
    inheritable: int


def close_range(first: int, last: int) -> None:
    """Close all descriptors from `first` to `last`, both included."""
    _check("close_range", lib.jail_close_range(first, last))


def prctl(option: int, value: int) -> int:
    """prctl(2) with one argument."""
    return _check("prctl", lib.jail_prctl(option, value))


def drop_bounding_set() -> None:
    """Empty the calling thread's bounding set."""
    _check("prctl", lib.jail_drop_bounding())


def capget(thread: int = 0) -> Capabilities:
    """The capability sets of a thread, by its id; 0: the calling thread."""
    out: Any = ffi.new("struct jail_caps *")
    _check("capget", lib.jail_capget(thread, out))
    return Capabilities(out.effective, out.permitted, out.inheritable)


def capset(capabilities: Capabilities) -> None:
    """Set the capability sets of the calling thread."""
    _check("capset", lib.jail_capset(ffi.new("struct jail_caps *", capabilities._asdict())))


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check("unshare", lib.jail_unshare(flags))


def setns(namespace: int, flag: int) -> None:
    """setns(2), with a descriptor of a namespace of that kind."""
    _check("setns", lib.jail_setns(namespace, flag))


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    source_, target_, kind_, data_ = (os.fsencode(one) for one in (source, target, kind, data))
    _check("mount", lib.jail_mount(source_, target_, kind_, flags, data_ or ffi.NULL))


def umount(target: str, flags: int) -> None:
    """umount2(2)."""
    _check("umount", lib.jail_umount(os.fsencode(target), flags))


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    _check("pivot_root", lib.jail_pivot_root(os.fsencode(new_root), os.fsencode(put_old)))


def landlock_abi() -> int:
    """Version of Landlock's interface; 0 if the kernel has none or has it switched off."""
    return max(0, int(lib.jail_landlock_abi()))


def landlock(*, files: int = 0, network: int = 0, scopes: int = 0) -> None:
    """Forbid the calling thread all of these accesses, for ever."""
    _check("landlock", lib.jail_landlock(files, network, scopes))


def _check(call: str, result: Any) -> int:
    if result < 0:
        raise OSError(-result, f"{call}: {os.strerror(-result)}")
    return int(result)


UNKNOWN: Final = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})
"""Errors of a kernel that does not know a call or one of its flags."""
