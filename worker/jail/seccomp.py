# SPDX-License-Identifier: MIT
"""Installs a system-call filter on all threads of this process.

This needs no privilege: without privileges the kernel requires no_new_privs, which is set first. A
filter cannot be removed. Further filters can be added; the strictest verdict counts. A forbidden
call ends the process by SIGSYS, and no handler can catch that.

For a process with a filter, Linux before 5.16 also turns on its defences against speculative
execution (SSBD, STIBP; kernel parameter spec_store_bypass_disable), which cost time. We leave that
as it is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from shared.errors import HostError
from worker.jail import rules
from worker.jail.filters import seal_filter
from worker.jail.native._seccomp import ffi, lib


@dataclass(frozen=True, slots=True)
class Facts:
    """What this kernel can do."""

    filters: bool
    """Filters, and for all threads at once (seccomp(2), Linux 3.17)."""
    kills: bool
    """A violation ends the whole process (Linux 4.14)."""
    logs: bool
    """Mode `log` (Linux 4.14)."""


def available() -> Facts:
    """Ask this kernel; change nothing."""
    return Facts(
        filters=bool(lib.seccomp_available()),
        kills=bool(lib.seccomp_knows(rules.KILL_PROCESS)),
        logs=bool(lib.seccomp_knows(rules.LOG)),
    )


def install(program: bytes, *, log: bool) -> None:
    """Put all threads of this process under a filter for ever; sets no_new_privs for all of them.

    `program` is an array of `struct sock_filter`. With `log` the kernel logs every call that is
    not simply allowed.

    Raises:
        HostError: the kernel has no filters or refuses this one, or a thread has another filter.
    """
    error = lib.seccomp_no_new_privs()
    if error:
        raise HostError(f"no_new_privs: this process: {os.strerror(-error)}")
    _load(program, log=log)


def seal() -> None:
    """Deny mapping and copying of grants from now on (EPERM), for all threads and for ever.

    Works under a worker's filter if the list of its device type allows it.

    Raises:
        HostError: like `install`.
    """
    _load(seal_filter(), log=False)


def _load(program: bytes, *, log: bool) -> None:
    data = ffi.from_buffer(program)
    result = lib.seccomp_load(data, len(program) // 8, log)
    if result > 0:
        raise HostError(f"system-call filter: thread {result}: is under another filter already")
    if result < 0:
        raise HostError(f"system-call filter: this process: {os.strerror(-result)}")
