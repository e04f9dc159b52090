# SPDX-License-Identifier: MIT
"""One device's worker as its device sees it: start, orders, answers, deadlines, end.

Turns what the process and its messages do into events of the life cycle. Everything a worker has to
answer has a deadline; a worker that misses one is killed, and that counts as a failure. So does
an end nobody asked for, whatever the exit code.

A worker's word is worth little: the nodes it wants published are held against what its handler may
publish (`shared.handlers`), and what makes no sense in the present phase ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from config.model import TypeConfig
from shared import lifecycle_types as t
from shared import messages as m
from shared.device_id import DeviceId
from shared.errors import BackendBug, Blame, HostError
from shared.handlers import HandlerInfo
from shared.limits import SNAPSHOT_NODES_MAX
from shared.logs import DeviceLogger
from shared.worker_spec import WorkerSpec
from supervisor.exits import classify, describe
from supervisor.policy import KIND_OF_BLAME, ExitKind, RestartPolicy
from supervisor.services import Services


class LinkOwner(Protocol):
    """The device."""

    def feed(self, event: t.Event) -> None:
        """Take an event of the life cycle."""

    def worker_said_illegal(self, event: t.Event) -> bool:
        """Take an event a worker caused; True if it was impossible now."""

    def worker_spoke(self) -> None:
        """Any message came."""

    def report(self, blame: Blame, text: str, *, stage: str) -> None:
        """Tell log, event stream and xenstore what failed."""

    def nodes_given(self, nodes: m.Nodes, *, rewrite_state: bool | None) -> None:
        """Nodes to publish: with the next state (None) or now."""


class WorkerLink:
    """See the module. `counters` are as the worker says."""

    def __init__(
        self,
        device: DeviceId,
        services: Services,
        type_config: TypeConfig,
        handler: HandlerInfo,
        owner: LinkOwner,
        log: DeviceLogger,
    ) -> None:
        self._device = device
        self._services = services
        self._handler = handler
        self._owner = owner
        self._log = log
        self.type_config = type_config
        self.policy = RestartPolicy(type_config.restart or services.config.restart)
        self.log_level: str = type_config.log_level or services.config.log.level
        """Level the next worker starts with."""
        self.generation = 0
        self.pid: int | None = None
        self.present = False
        """A process exists, or one has been asked for."""
        self.watched = False
        """Its beats are due: it has said Hello and no hook is under way."""
        self.last_seen = 0.0
        self.counters: dict[str, int] = {}
        self._failure: ExitKind | None = None
        self._asked_to_stop = False
        self._killed = False
        self._deadline: asyncio.TimerHandle | None = None
        self._backoff: asyncio.TimerHandle | None = None
        self._published: set[str] = set()

    # --- orders

    def start(self) -> None:
        """Start the next generation."""
        self.cancel_backoff()
        self.generation += 1
        self._failure = None
        self._asked_to_stop = self._killed = self.watched = False
        self.counters = {}
        self._published.clear()
        self.present = True
        services, config = self._services, self._services.config
        spec = WorkerSpec(
            device=self._device,
            generation=self.generation,
            backend_domid=services.own_domid,
            handler=self.type_config.handler,
            options=self.type_config.options,
            endpoint=services.endpoint,
            hypervisor=services.hypervisor,
            embedded_dir=services.embedded_dir,
            supervisor_pid=services.supervisor_pid,
            log_level=self.log_level,
            log_format=config.log.format,
            beat=config.timeouts.beat,
        )
        services.processes.start(spec, self)

    def ask(self, kind: Callable[..., m.Message], **fields: Any) -> None:
        """Send an order that is answered within `timeouts.hook`."""
        self.watched = False
        if self._send(kind, **fields):
            seconds = self._services.config.timeouts.hook
            self._arm(seconds, f"no answer to {kind.__name__} within {seconds:g} s")

    def tell(self, kind: Callable[..., m.Message], **fields: Any) -> bool:
        """Send what needs no answer; False if the worker's queue is full or it is not there."""
        return self._services.messages.send(self._message(kind, **fields))

    def stop(self, *, kill: bool = False) -> None:
        """End the worker: in order within `timeouts.drain`, or at once."""
        if not self.present or self._killed:
            return
        self._asked_to_stop = True
        self.watched = False
        if kill or self.pid is None or not self.tell(m.Stop):
            self._kill()
            return
        seconds = self._services.config.timeouts.drain
        self._arm(seconds, f"not gone {seconds:g} s after it was told to stop")

    def failed(self, blame: Blame, text: str, stage: str) -> None:
        """Something of this worker's failed, by its own word or because it cannot be served."""
        if self._failure is None:
            self._failure = KIND_OF_BLAME[blame]
        self._owner.report(blame, text, stage=stage)
        self._disarm()
        if self._owner.worker_said_illegal(t.WorkerFailed(blame)):
            self._kill()

    def hung(self, cause: str) -> None:
        """A deadline was missed: kill."""
        if not self.present or self._killed:
            return
        self._failure = self._failure or ExitKind.HANG
        self._kill()
        self._owner.report(Blame.US, f"worker: {self._device}: {cause}", stage="hang")
        self._owner.worker_said_illegal(t.WorkerFailed(Blame.US))

    def cancel_backoff(self) -> None:
        """No successor is waited for any more."""
        if self._backoff is not None:
            self._backoff.cancel()
            self._backoff = None

    def close(self) -> None:
        """The device is over: no timer fires any more."""
        self.cancel_backoff()
        self._disarm()

    # --- the process (WorkerOwner)

    def worker_forked(self, pid: int) -> None:
        """Its messages are believed from now on; Hello is due."""
        self.pid = pid
        if self._killed:
            return
        seconds = self._services.config.timeouts.hello
        self._arm(seconds, f"no Hello within {seconds:g} s")
        self._services.messages.expect(self._device, self.generation, pid, self)

    def worker_exited(self, status: int | None) -> None:
        """It is dead and reaped."""
        # Its last words may have arrived and not been read yet.
        self._services.messages.drain()
        kind = self._failure or classify(status)
        if self._failure is None and self._asked_to_stop:
            kind = ExitKind.CLEAN
        elif self._failure is None and kind is ExitKind.CLEAN:
            kind = ExitKind.CRASH  # nobody asked it to end
        if kind is not ExitKind.CLEAN and self._failure is None:
            text = f"worker: {self._device}: process {self.pid}: {describe(status)}"
            self._owner.report(_blame(kind), text, stage="exit")
        self._log.debug("worker: process %s, %s: %s", self.pid, kind.value, describe(status))
        self._over(kind)

    def worker_not_started(self, error: HostError) -> None:
        """The fork server could not."""
        self._owner.report(Blame.HOST, str(error), stage="start")
        self._over(ExitKind.SPAWN)

    def _over(self, kind: ExitKind) -> None:
        self._services.messages.forget(self._device)
        self._disarm()
        self.pid = None
        self.present = self.watched = False
        decision = self.policy.ended(kind, self._services.clock())
        if decision.hold is t.Hold.BACKOFF:
            loop = asyncio.get_running_loop()
            self._backoff = loop.call_later(decision.delay, self._backoff_over)
            self._log.info("worker: next start in %.1f s", decision.delay)
        self._owner.feed(t.WorkerExited(decision.hold))

    def _backoff_over(self) -> None:
        self._backoff = None
        self._owner.feed(t.Released())

    # --- its messages (BusListener)

    def worker_said(self, message: m.FromWorker) -> None:
        """Take one message; who sent it is known."""
        self.last_seen = self._services.clock()
        self._owner.worker_spoke()
        match message:
            case m.Beat(counters=counters):
                self.counters = counters
            case m.Hello():
                self._services.processes.said_hello(self._device)
                self._answered(t.WorkerHello())
            case m.Initialised(nodes=nodes):
                if self._take_nodes(nodes, rewrite_state=None):
                    self._answered(t.WorkerInitialised())
            case m.Attached(nodes=nodes):
                if self._take_nodes(nodes, rewrite_state=None):
                    self._answered(t.WorkerAttached())
            case m.Disconnected():
                self._answered(t.WorkerDisconnected())
            case m.Publish(nodes=nodes, rewrite_state=rewrite_state):
                self._take_nodes(nodes, rewrite_state=rewrite_state)
            case m.Failed(stage=stage, blame=blame, text=text):
                self.failed(blame, text, stage)

    def worker_broke_protocol(self, error: BackendBug) -> None:
        """Whatever it is, it is no worker of ours any more."""
        self._failure = ExitKind.CRASH
        self._kill()
        self._owner.report(Blame.US, str(error), stage="protocol")
        self._owner.worker_said_illegal(t.WorkerFailed(Blame.US))

    def _answered(self, event: t.Event) -> None:
        if not self._asked_to_stop:
            self._disarm()
            self.watched = True
        if self._owner.worker_said_illegal(event):
            name = type(event).__name__
            error = BackendBug(f"message of worker: {self._device}: {name}: not asked for")
            self.worker_broke_protocol(error)

    def _take_nodes(self, nodes: m.Nodes, *, rewrite_state: bool | None) -> bool:
        refused = next((name for name in nodes if not self._handler.may_publish(name)), None)
        if refused is None and len(self._published | nodes.keys()) > SNAPSHOT_NODES_MAX:
            refused = "one more than it may have"
        if refused is not None:
            text = f"node {refused[:64]!r}: not for it to publish"
            self.worker_broke_protocol(BackendBug(f"message of worker: {self._device}: {text}"))
            return False
        self._published |= nodes.keys()
        self._owner.nodes_given(nodes, rewrite_state=rewrite_state)
        return True

    # --- helpers

    def _message(self, kind: Callable[..., m.Message], **fields: Any) -> m.Message:
        seq = self._services.messages.next_seq(self._device)
        return kind(device=self._device, generation=self.generation, seq=seq, **fields)

    def _send(self, kind: Callable[..., m.Message], **fields: Any) -> bool:
        sent = self.tell(kind, **fields)
        if not sent:
            self.hung("does not take messages")
        return sent

    def _kill(self) -> None:
        self._killed = True
        self.watched = False
        self._disarm()
        self._services.processes.kill(self._device)

    def _arm(self, seconds: float, cause: str) -> None:
        self._disarm()
        self._deadline = asyncio.get_running_loop().call_later(seconds, self.hung, cause)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _blame(kind: ExitKind) -> Blame:
    for blame, known in KIND_OF_BLAME.items():
        if known is kind:
            return blame
    return Blame.US
