# SPDX-License-Identifier: MIT
"""The empty network namespace that all workers of one fork server share.

One namespace for all, because its removal costs the kernel more than everything else after the end
of a worker. Some kernels cannot preempt the removal, and other workers serve meanwhile. Through the
namespace, workers could reach each other by abstract sockets, but Landlock and the filter forbid
the calls for that.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass

from worker.jail import kernel
from worker.jail.step import LeftOutError

_prepared: int | None = None
"""Descriptor of the namespace, in the fork server and its children."""


def prepare() -> None:
    """Make the namespace once, before the first fork; does nothing if that is not allowed.

    A separate thread enters it and ends. So this process stays in its network, which workers
    without a jail inherit.
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
    """No interface except a loopback that is down, and no process that could change that."""

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
