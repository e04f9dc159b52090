# SPDX-License-Identifier: MIT
"""What this process may do and this kernel can, as far as a plan depends on it.

Looked up once, by system calls alone: /proc need not be there. What is forked has the facts of who
forked it. What can only be found out by trying is left to the steps themselves.
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
    """The effective user is root, if only of a container."""
    capabilities: int
    """The effective set, as a mask."""
    landlock: int
    """Version of Landlock's interface; 0: none."""

    def can(self, *needed: Capability) -> bool:
        """Whether all these capabilities are there."""
        return all(self.capabilities >> one & 1 for one in needed)


@functools.cache
def look() -> Facts:
    """The facts of this process."""
    return Facts(
        root=os.geteuid() == 0,
        capabilities=kernel.capget().effective,
        landlock=kernel.landlock_abi(),
    )
