# SPDX-License-Identifier: MIT
"""What this process may do and this kernel can, as far as a plan depends on it.

Looked up once per worker, by system calls alone: /proc need not be there. What can only be found
out by trying is left to the steps themselves.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

from worker.jail import native
from worker.jail.native import Capability


@dataclass(frozen=True, slots=True)
class Facts:
    """See the module."""

    root: bool
    """The effective user is root, if only of a container."""
    capabilities: int
    """The effective set, as a mask."""
    last_capability: int
    """Highest number the kernel knows."""
    landlock: int
    """Version of Landlock's interface; 0: none."""

    def can(self, *needed: Capability) -> bool:
        """Whether all these capabilities are there."""
        return all(self.capabilities >> one & 1 for one in needed)


@functools.cache
def _kernel() -> tuple[int, int]:
    """The same for all processes, so the fork server asks for all of them."""
    return native.last_capability(), native.landlock_abi()


def look() -> Facts:
    """The facts of this process."""
    last_capability, landlock = _kernel()
    return Facts(
        root=os.geteuid() == 0,
        capabilities=native.capget().effective,
        last_capability=last_capability,
        landlock=landlock,
    )
