# SPDX-License-Identifier: MIT
"""The base of all device types: the hooks (S24) and what every type does the same way.

A type's manifest (`shared.device_types`) names a subclass. Its hooks are called by the worker's
session, one at a time, in the order of a device's life:

    alloc, then any number of (init, initialise, connected…, disconnect), then free

`event` is called from `run` while the device serves; `backend_changed` and `frontend_changed` at
any time after alloc; `command` between `init` and `disconnect`. A hook raises one of the four
`BlamedError`s when it fails, and has then undone what it began. `connected` may come more than
once, `disconnect` also when nothing is connected.

A device knows nothing of xenstore: it gets snapshots and returns nodes to be published.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from shared.device_id import DeviceId
from shared.errors import BackendBug
from shared.hypervisor.interface import GrantTable, Handles, Mapping, Port
from shared.logs import DeviceLogger
from shared.messages import Nodes


@dataclass(frozen=True, slots=True)
class DeviceContext:
    """What a device is given at its birth."""

    device: DeviceId
    options: Any
    """An instance of the manifest's `options`."""
    handles: Handles
    log: DeviceLogger
    publish: Callable[[Nodes, bool], None]
    """Ask for nodes of the own backend directory to be written while Connected; the second
    argument asks for `state` to be written again, so that the frontend's watch fires."""
    drain: float = 10.0
    """Seconds `disconnect` may take before the supervisor kills the worker."""
    journal: int = -1
    """Descriptor of the device's journal, locked, open until the process ends; -1 without."""


class RenewalError(Exception):
    """`init` needs what cannot be opened from inside the jail; a successor will open it."""


class Device:
    """One device; subclasses implement the hooks they need."""

    def __init__(self, context: DeviceContext) -> None:
        self.device = context.device
        self.options = context.options
        self.handles = context.handles
        self.log = context.log
        self.publish = context.publish
        self.drain = context.drain
        self.journal = context.journal
        self.port: Port | None = None
        """The bound event channel."""
        self._mapped: list[Mapping] = []
        self.more = False
        """Set by `event` where it left something for its next call, which then comes without an
        event, after orders and beats."""
        self.jailed = False
        """No file can be opened any more; from the end of the first `init` on."""

    @classmethod
    def max_grants(cls, options: Any) -> int | None:
        """Pages a device with these options has mapped at most; None: any number."""
        return None

    # --- hooks

    def alloc(self) -> None:
        """Called once, with the handles open (S7)."""

    def init(self, backend: Nodes) -> Nodes:
        """Open what the device stands on (S12); the feature nodes for InitWait.

        Only the first call of a worker can open files (`jailed`): what it opened stays open, also
        over `disconnect`. Raises `RenewalError` where a later one needs anything else.
        """
        return {}

    def initialise(self, backend: Nodes, untrusted_frontend: Nodes, *, resume: bool) -> Nodes:
        """Map the ring, bind the channel (S13); the nodes for Connected.

        `resume`: both ends are Connected already, the ring is live.
        """
        return {}

    def connected(self) -> None:
        """The frontend is Connected (S14)."""

    def event(self) -> None:
        """The frontend sent an event (S21); one call may stand for many.

        Bound what one call does and set `more` where something is left: a guest that produces
        without end must not keep the worker from its beats.
        """

    def disconnect(self) -> None:
        """Finish what is in flight and give everything of the guest's back (S15). Idempotent."""
        self.unbind()
        while self._mapped:
            self._mapped.pop().unmap()

    def free(self) -> None:
        """Called once, last (S8)."""

    def backend_changed(self, node: str, value: bytes | None) -> None:
        """A node of the backend directory changed (S9); None: it is gone."""

    def frontend_changed(self, node: str, untrusted_value: bytes | None) -> None:
        """A node of the frontend directory changed (S10)."""

    def command(self, name: str, arguments: Any) -> msgspec.Struct | str:
        """Carry out a command of the manifest; the reply, as the manifest's model says.

        `arguments` is an instance of the manifest's model. Called while the device is ready or
        serves, and always from inside the jail. The ring waits meanwhile. An error is told to
        the operator and changes nothing in the life of the device. A successor knows nothing of
        what a command has changed.
        """
        raise BackendBug(f"command: {self.device}: {name}: in the manifest, and not in the code")

    def counters(self) -> dict[str, int]:
        """Figures for `status`, sent with each beat: at most 64."""
        return {}

    def run(self, wake_fds: Sequence[int], timeout: float) -> None:
        """Serve until a descriptor of `wake_fds` is readable or `timeout` seconds are over.

        Types whose rate matters replace this by a loop in C.
        """
        poller = select.poll()
        for fd in (self.handles.event_channels.fileno(), *wake_fds):
            poller.register(fd, select.POLLIN)
        poller.poll(0 if self.more else max(0, round(timeout * 1000)))
        if self.more:
            self.more = False
            self.event()
        self.take_events()

    # --- helpers

    @property
    def grant_table(self) -> GrantTable:
        """The grant table, for types that need one."""
        if self.handles.grant_table is None:
            raise BackendBug(f"grant table: {self.device}: the type does not ask for one")
        return self.handles.grant_table

    def map(self, refs: Sequence[int]) -> Mapping:
        """Map pages of the frontend's, writable, until `disconnect`; raises as `GrantTable.map`."""
        mapping = self.grant_table.map(self.device.domid, refs, writable=True)
        self._mapped.append(mapping)
        return mapping

    def bind(self, remote_port: int) -> None:
        """Bind the frontend's port (S22); raises what `bind_interdomain` raises."""
        if self.port is not None:
            raise BackendBug(f"event channel: {self.device}: bound already")
        self.port = self.handles.event_channels.bind_interdomain(self.device.domid, remote_port)

    def unbind(self) -> None:
        """Close the port if it is bound."""
        if self.port is not None:
            port, self.port = self.port, None
            self.handles.event_channels.unbind(port)

    def notify(self) -> None:
        """Send an event to the frontend."""
        if self.port is None:
            raise BackendBug(f"event channel: {self.device}: not bound")
        self.handles.event_channels.notify(self.port)

    def take_events(self) -> None:
        """Take what is pending: the own port is unmasked, then `event` is called."""
        channels = self.handles.event_channels
        while (port := channels.pending()) is not None:
            if port != self.port:
                # It stays masked, so it cannot come again.
                self.log.error("event channel: port %d is not ours (%s)", port, self.port)
                continue
            channels.unmask(port)
            self.event()
