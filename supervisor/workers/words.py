# SPDX-License-Identifier: MIT
"""The messages of one device's worker: what they mean for the device, and whether they may.

A worker's word is worth little. The bus (`supervisor.workers.bus`) has made sure who speaks, and the schema
how much (`shared.messages`); here it is decided what of it is taken:

- nodes it wants published are held against what its handler may publish
  (`supervisor.workers.publications`); `supervisor.device.device` drops them while its ring does not run;
- an answer that was not asked for ends it;
- what an honest one may say too often is heard a few times, and nothing of one that was killed.

Does not end anybody itself: `supervisor.workers.link` does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from config.model import DeviceTimeouts
from shared import lifecycle_types as t
from shared import messages as m
from shared.device_id import DeviceId
from shared.device_types import DeviceType
from shared.errors import BackendBug, Blame
from shared.logs import DeviceLogger
from supervisor.workers.health import Health
from supervisor.workers.owner import LinkOwner
from supervisor.workers.publications import Publications
from supervisor.workers.surroundings import Services

FAILURES_HEARD: Final = 8
"""`Failed` of one worker that are told to anybody. The first one ends it; after that an honest one
fails at what was on its way to it already, and another could fill the log until it is dead."""


class Link(Protocol):
    """`supervisor.workers.link.WorkerLink`, as its worker's words see it."""

    pid: int | None
    log_level: str
    last_seen: float
    health: Health

    @property
    def killed(self) -> bool:
        """It was sent SIGKILL, or SIGABRT and then that."""

    @property
    def timeouts(self) -> DeviceTimeouts:
        """Those of its type."""

    def came_back(self) -> None:
        """An earlier supervisor's worker is connected."""

    def introduced(self) -> None:
        """It has said what it is doing."""

    def answered(self, event: t.Event) -> None:
        """It did what it was asked to."""

    def renewed(self) -> None:
        """Only a successor can do what `Init` asks."""

    def failed(self, blame: Blame, text: str, stage: str) -> None:
        """Something of its failed."""

    def distrusted(self, error: BackendBug) -> None:
        """It is no worker of ours any more."""

    def tell(self, kind: Callable[..., m.Message], **fields: Any) -> bool:
        """Send what needs no answer."""


class WorkerWords:
    """See the module; the bus's listener for one worker. `counters` and `jail` are as it says."""

    def __init__(
        self,
        device: DeviceId,
        services: Services,
        handler: DeviceType,
        link: Link,
        owner: LinkOwner,
        log: DeviceLogger,
    ) -> None:
        self._device = device
        self._services = services
        self._publications = Publications(handler)
        self._link = link
        self._owner = owner
        self._log = log
        self._failures_heard = 0
        self.counters: dict[str, int] = {}
        self.jail: m.Jailed | None = None
        """What confines it."""
        self.initialising = False
        """`Init` was asked and is not answered yet."""

    def forget(self) -> None:
        """Another worker begins."""
        self._publications.clear()
        self._failures_heard = 0
        self.counters = {}
        self.jail = None
        self.initialising = False

    # --- BusListener

    def worker_said(self, message: m.FromWorker) -> None:
        """Take one message; who sent it is known."""
        link = self._link
        if link.killed:
            return  # what it had sent by then is no news, and could be much
        link.last_seen = now = self._services.clock()
        link.health.heard(now)
        self._owner.worker_spoke()
        match message:
            case m.Beat(counters=counters):
                self.counters = counters
                link.health.beat(counters, now, link.timeouts)
            case m.Present():
                self._present(message)
            case m.Hello():
                self._services.processes.said_hello(self._device)
                link.answered(t.WorkerHello())
            case m.Initialised(nodes=nodes):
                self.initialising = False
                if self._take_nodes(nodes, rewrite_state=None):
                    link.answered(t.WorkerInitialised())
            case m.Attached(nodes=nodes):
                if self._take_nodes(nodes, rewrite_state=None):
                    link.answered(t.WorkerAttached())
            case m.Disconnected():
                link.answered(t.WorkerDisconnected())
            case m.Publish(nodes=nodes, rewrite_state=rewrite_state):
                self._take_nodes(nodes, rewrite_state=rewrite_state)
            case m.Failed(stage=stage, blame=blame, text=text):
                self._failures_heard += 1
                if self._failures_heard <= FAILURES_HEARD:
                    link.failed(blame, text, stage)
            case m.Jailed():
                self.jail = message
            case m.Renew():
                self._renew()

    def worker_came_back(self) -> None:
        """An adopted worker is connected: it is told who we are, or that it is to end."""
        self._link.came_back()

    def worker_broke_protocol(self, error: BackendBug) -> None:
        """Whatever it is, it is no worker of ours any more."""
        self._link.distrusted(error)

    # --- single messages

    def _renew(self) -> None:
        """It cannot do what `Init` asks and holds nothing of the guest's; a successor can."""
        if self.initialising:
            self._link.renewed()
        else:
            self._link.distrusted(not_asked_for(self._device, "Renew"))

    def _present(self, message: m.Present) -> None:
        """What an adopted worker is doing."""
        link = self._link
        link.introduced()
        if message.text:
            link.failed(message.blame or Blame.US, message.text, message.stage)
        elif self._take_nodes(message.nodes, rewrite_state=None):
            self._log.info("worker: process %s adopted, %s", link.pid, message.phase)
            text = f"process {link.pid}, {message.phase}"
            self._services.events.add("adopted", str(self._device), text)
            link.answered(t.WorkerPresent(t.WorkerPhase(message.phase), message.greeted))
            link.tell(m.SetLogLevel, level=link.log_level)

    def _take_nodes(self, nodes: m.Nodes, *, rewrite_state: bool | None) -> bool:
        if refusal := self._publications.refusal(nodes):
            error = BackendBug(f"message of worker: {self._device}: {refusal}")
            self._link.distrusted(error)
            return False
        self._owner.nodes_given(nodes, rewrite_state=rewrite_state)
        return True


def not_asked_for(device: DeviceId, what: str) -> BackendBug:
    """The error of an answer out of turn."""
    return BackendBug(f"message of worker: {device}: {what}: not asked for")
