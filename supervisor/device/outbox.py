# SPDX-License-Identifier: MIT
"""Nodes that a worker wants published, until they are in xenstore."""

from __future__ import annotations

from shared import messages as m
from shared.device_id import DeviceId
from shared.errors import HostError
from shared.lifecycle_sets import RUNNING
from shared.xenbus import XenbusState
from supervisor.xenstore.publisher import FORCED, Publisher


class Outbox:
    """Keeps nodes for the next state and nodes for now; a refused write loses neither."""

    def __init__(
        self,
        device: DeviceId,
        frontend_path: str,
        publisher: Publisher,
        *,
        reconfigures: bool = False,
    ) -> None:
        """`reconfigures`: a toolstack may ask the device for Reconfiguring."""
        self._forced = FORCED | {XenbusState.RECONFIGURING} if reconfigures else FORCED
        self._device = device
        self._frontend_path = frontend_path
        self._publisher = publisher
        self._pending: m.Nodes = {}
        self._now: m.Nodes = {}
        self._rewrite_state = False
        self._refused: m.Nodes = {}
        self._refused_rewrite = False
        self.made_from: m.Nodes = {}
        """The backend directory as the worker got it for `init`."""

    def __bool__(self) -> bool:
        """Whether something is to be written at once."""
        return bool(self._now) or self._rewrite_state

    def give(self, nodes: m.Nodes, *, rewrite_state: bool | None) -> None:
        """Take nodes of the worker: for the next state (None), or for now."""
        if rewrite_state is None:
            self._pending |= nodes
        else:
            self._now |= nodes
            self._rewrite_state |= rewrite_state

    def clear(self) -> None:
        """The worker that gave them is dead."""
        self._pending.clear()
        self._now.clear()
        self._refused.clear()
        self._rewrite_state = self._refused_rewrite = False

    def hurry(self) -> None:
        """No state will be written: pending nodes go out now, except those that are there already.

        A successor mostly gives what its predecessor gave. A thousand of them would keep xenstored
        and its watchers busy with that while their guests wait.
        """
        self._now |= {
            name: value
            for name, value in self._pending.items()
            if self.made_from.get(name) != value
        }
        self._pending.clear()

    async def write_state(self, state: XenbusState, *, before: XenbusState, hotplug: bool) -> None:
        """Write a state with what is pending; raises as the publisher does, keeping it."""
        nodes = dict(self._pending)
        await self._publisher.write_state(
            self._device,
            self._frontend_path,
            state,
            nodes,
            before=before,
            hotplug=hotplug,
            made_from=self.made_from if before is XenbusState.INITIALISING else {},
            forced=self._forced,
        )
        for name, value in nodes.items():
            if self._pending.get(name) == value:
                del self._pending[name]

    async def publish(self, state: XenbusState) -> None:
        """Write the nodes for now; raises as the publisher does. Drops them unless it is running.

        `state` is written again only in Connected, where the frontend looks at the nodes then.
        """
        nodes, self._now = self._now, {}
        rewrite, self._rewrite_state = self._rewrite_state, False
        if state not in RUNNING:
            return
        rewrite = rewrite and state is XenbusState.CONNECTED
        try:
            await self._publisher.write_nodes(
                self._device, self._frontend_path, nodes, state=state if rewrite else None
            )
        except HostError:
            self._refused |= nodes
            self._refused_rewrite |= rewrite
            raise

    def retry(self) -> None:
        """A write that was refused may work now; newer values take precedence."""
        self._now = self._refused | self._now
        self._rewrite_state |= self._refused_rewrite
        self._refused, self._refused_rewrite = {}, False
