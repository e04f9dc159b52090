# SPDX-License-Identifier: MIT
"""One row of the transition table of the life cycle: when it applies and what it does."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from shared import lifecycle_types as t
from shared.lifecycle_types import Hold, Lifecycle
from shared.lifecycle_types import WorkerPhase as W
from shared.xenbus import XenbusState as X


@dataclass(frozen=True, slots=True)
class Rule:
    """One row. All conditions must hold (None: any value). `writes` implies `WriteState`."""

    name: str
    why: str
    gone: bool = False
    enabled: bool | None = None
    fault: bool | None = None
    online: bool | None = None
    backend: frozenset[X] | None = None
    frontend: frozenset[X] | None = None
    worker: frozenset[W] | None = None
    hold: frozenset[Hold] | None = None
    frontend_was_connected: bool | None = None
    greeted: bool | None = None
    renewed: bool | None = None
    hotplug_done: bool | None = None
    ignore_frontend_state: bool | None = None
    reconfigures: bool | None = None
    returns: bool | None = None
    # effect
    action: t.Action | None = None
    to_worker: W | None = None
    writes: X | None = None

    def matches(self, now: Lifecycle) -> bool:
        """Whether the row applies."""
        if not now.taken_up or self.gone != now.gone:
            return False
        if not now.gone and now.writing is not None:
            return False
        if self.writes is not None and now.write_blocked:
            return False
        return (
            (self.enabled is None or self.enabled == now.enabled)
            and (self.fault is None or self.fault == now.fault)
            and (self.online is None or self.online == now.online)
            and (self.backend is None or now.backend in self.backend)
            and (self.frontend is None or now.frontend_counts_as in self.frontend)
            and (self.worker is None or now.worker in self.worker)
            and (self.hold is None or now.hold in self.hold)
            and self.frontend_was_connected in (None, now.frontend_was_connected)
            and self.greeted in (None, now.greeted)
            and self.renewed in (None, now.renewed)
            and self.hotplug_done in (None, now.hotplug_done)
            and self.ignore_frontend_state in (None, now.traits.ignore_frontend_state)
            and self.reconfigures in (None, now.traits.reconfigures)
            and self.returns in (None, now.traits.returns)
        )

    def apply(self, now: Lifecycle) -> tuple[Lifecycle, t.Action]:
        """The situation after the row, and the action to carry out."""
        if self.writes is not None:
            hotplug = self.writes is X.INIT_WAIT and now.traits.hotplug == "ours"
            after = dataclasses.replace(now, writing=self.writes)
            return after, t.WriteState(self.writes, hotplug)
        assert self.action is not None
        changes: dict[str, Any] = {}
        if self.to_worker is not None:
            changes["worker"] = self.to_worker
        if isinstance(self.action, t.AskConnected):
            changes["greeted"] = True
        if isinstance(self.action, t.AskInitialise):
            # What the worker is given is read after this, so it has the new configuration.
            changes["renewed"] = now.reconfiguring
        if isinstance(self.action, t.Forget):
            changes["taken_up"] = False
        return dataclasses.replace(now, **changes), self.action
