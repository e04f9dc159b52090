# SPDX-License-Identifier: MIT
"""The network namespace of all workers of one fork server: nothing is in it.

One for all, because to take down a network namespace costs the kernel more than all else that
follows the end of a worker, nothing preempts it where the kernel is built so, and workers end while
others serve. What workers could say to each other through it are abstract
sockets, and the calls for that are forbidden to them by Landlock and by the filter.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass

from worker.jail import kernel
from worker.jail.step import LeftOutError

_prepared: int | None = None
"""Descriptor of the namespace, in the fork server and what it forks."""


def prepare() -> None:
    """Make the namespace, once and before the first fork; does nothing where that is not allowed.

    A thread of its own enters it, and is over: this process stays in the network it is in, which
    the workers of a type that has no jail inherit.
    """
    global _prepared
    if _prepared is None:
        thread = threading.Thread(target=_make)
        thread.start()
        thread.join()


def _make() -> None:
    global _prepared
    with contextlib.suppress(OSError):
        kernel.unshare(kernel.CLONE_NEWNET)
        own = f"/proc/self/task/{threading.get_native_id()}/ns/net"
        _prepared = os.open(own, os.O_RDONLY | os.O_CLOEXEC)


@dataclass(frozen=True, slots=True)
class EmptyNetwork:
    """No interface but a loopback that is down, and nobody who could change that."""

    name: str = "network"

    def describe(self) -> str:
        return "network namespace without a network, with other workers at most"

    def execute(self) -> None:
        try:
            if _prepared is None:
                kernel.unshare(kernel.CLONE_NEWNET)
            else:
                kernel.setns(_prepared, kernel.CLONE_NEWNET)
        except OSError as error:
            if error.errno in kernel.UNKNOWN:
                raise LeftOutError("this kernel has no such namespaces") from None
            raise
