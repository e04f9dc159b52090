# SPDX-License-Identifier: MIT
"""What this process may do and what this kernel can do, as far as a plan depends on it.

Looked up once, only by system calls, so /proc is not needed. A forked process has the facts of its
parent. The steps themselves find out what can only be found out by trying.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

from worker.jail import kernel
from worker.jail.kernel import Capability


@dataclass(frozen=True, slots=True)
class Facts:
    """See the module."""

    root: bool
    """The effective user is root, perhaps only of a container."""
    capabilities: int
    """The effective set, as a mask."""
    landlock: int
    """Version of Landlock's interface; 0: the kernel has none."""

    def can(self, *needed: Capability) -> bool:
        """Whether this process has all these capabilities."""
        return all(self.capabilities >> one & 1 for one in needed)


@functools.cache
def look() -> Facts:
    """The facts of this process."""
    return Facts(
        root=os.geteuid() == 0,
        capabilities=kernel.capget().effective,
        landlock=kernel.landlock_abi(),
    )
