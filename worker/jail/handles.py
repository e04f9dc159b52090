# SPDX-License-Identifier: MIT
"""Steps of the jail for the hypervisor's handles, between opening them and their first use.

Do not use xentoolcore_restrict_all() here: it replaces the grant handle's descriptor by /dev/null.
Linux's grant device cannot be confined to one domain; SECURITY.md says what follows from that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from shared.hypervisor.interface import Handles
from worker.jail.step import LeftOutError


@dataclass(frozen=True, slots=True)
class RestrictEventChannels:
    """The event-channel handle can bind only ports of the one domain, for ever."""

    domid: int
    handles: Callable[[], Handles] = field(compare=False)
    name: str = "event-channels"

    def describe(self) -> str:
        return f"event channels of domain {self.domid} only"

    def execute(self) -> None:
        self.handles().event_channels.restrict(self.domid)


@dataclass(frozen=True, slots=True)
class LimitGrants:
    """The grant handle maps no more pages than the device can need at once."""

    count: int
    handles: Callable[[], Handles] = field(compare=False)
    name: str = "grants"

    def describe(self) -> str:
        return f"at most {self.count} pages mapped"

    def execute(self) -> None:
        grant_table = self.handles().grant_table
        if grant_table is None:
            raise LeftOutError("the device has no grant handle")
        # If Linux no longer knows the call, the library reports success.
        grant_table.set_max_grants(self.count)
