# SPDX-License-Identifier: MIT
"""Steps of the jail that change the user id of all threads, and so drop every capability.

The kernel's calls change one thread. The calls of glibc, which Python uses, make all other threads
do the same, and end the process if one of them cannot (nptl(7)). When all three user ids change
from 0 to another value, the kernel empties the permitted, effective and ambient sets
(capabilities(7)). We rely on neither: each thread is checked afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from shared.errors import HostError
from worker.jail import kernel


def threads() -> list[int]:
    """Ids of this process's threads. Needs /proc, so it is called before the root is empty."""
    return [int(name) for name in os.listdir("/proc/self/task")]  # noqa: PTH208 — no Path needed


@dataclass(frozen=True, slots=True)
class OwnUser:
    """A user and a group of the worker alone, no other groups, no capability in any thread."""

    uid: int
    threads: Callable[[], Sequence[int]] = field(compare=False)
    name: str = "user"

    def describe(self) -> str:
        return f"user and group {self.uid}, no other groups, no capabilities"

    def execute(self) -> None:
        if self.uid <= 0:
            raise HostError(f"user id: {self.uid}: not for a worker")
        os.setgroups([])
        os.setresgid(self.uid, self.uid, self.uid)
        os.setresuid(self.uid, self.uid, self.uid)
        self._verify()

    def _verify(self) -> None:
        own = (self.uid,) * 3
        if os.getresuid() != own or os.getresgid() != own or os.getgroups():
            raise HostError(f"user id: {self.uid}: the kernel says {os.getresuid()}")
        for thread in self.threads():
            if any(kernel.capget(thread)):
                raise HostError(f"capabilities: thread {thread}: there are some left")


@dataclass(frozen=True, slots=True)
class NotDumpable:
    """Only root can look at the process, by ptrace or in /proc; it leaves no core."""

    name: str = "dumpable"

    def describe(self) -> str:
        return "not dumpable"

    def execute(self) -> None:
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
