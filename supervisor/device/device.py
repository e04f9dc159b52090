# SPDX-License-Identifier: MIT
"""A device: its life cycle, and the deeds that follow from it.

Everything that happens to the device becomes an event of `shared.lifecycle`; every action that
comes out is carried out here, in order. Reading and writing xenstore takes time, so actions and
re-reads wait in a queue that one task works off: a read can never be overtaken by a write of our
own, which is what makes "state is 1 again" mean "another device".

Invariants:

- The life cycle changes only in `feed`; a state is logged `old -> new` after it was written and
  before it is believed (S4).
- At most one task per device, and none while there is nothing to do.
- The frontend's nodes are passed on as they are; only `state` is read here, by a reader that
  never fails on content.

Does not know why the world changed: `supervisor.device.scanner` says that something did.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from config.model import TypeConfig
from shared import lifecycle_types as t
from shared import messages as m
from shared.device_id import DeviceId
from shared.device_types import DeviceType
from shared.errors import Blame, BlamedError, HostError
from shared.lifecycle import advance
from shared.lifecycle_types import Hold, Lifecycle, WorkerPhase
from shared.logs import DeviceLogger
from shared.xenbus import XenbusState
from shared.xenstore.errors import ConnectionLostError
from supervisor.device.changes import BACKEND_LISTENS, FRONTEND_LISTENS, Changed, Changes
from supervisor.device.outbox import Outbox
from supervisor.device.removal import Removal
from supervisor.device.reporter import Reporter
from supervisor.device.ring_check import RingCheck
from supervisor.workers.link import WorkerLink
from supervisor.workers.records import Orphan, ring_identity
from supervisor.workers.surroundings import Services
from supervisor.xenstore import probe
from supervisor.xenstore.paths import backend_path
from supervisor.xenstore.publisher import OvertakenError, RemadeError
from supervisor.xenstore.snapshot import read_both

WRITE_RETRY: Final = 2.0
"""Seconds after which a refused write (quota, permissions) is tried again."""


class Device:
    """One device of the registry, from set-up (S11) to `Forget` (S8)."""

    def __init__(
        self,
        device: DeviceId,
        frontend_path: str,
        services: Services,
        type_config: TypeConfig,
        handler: DeviceType,
        life: Lifecycle,
    ) -> None:
        """`life` is its beginning; where an earlier supervisor left a worker `adopt` follows."""
        self.id = device
        self._handler = handler
        self._services = services
        self.frontend_path = frontend_path
        self.path = backend_path(services.own_path, device)
        level = type_config.log_level or services.config.log.level
        self.log = DeviceLogger(device, level)
        self.reporter = Reporter(device, services, self.log)
        self.lifecycle = life
        self.link = WorkerLink(device, services, type_config, handler, self, self.log)
        self.since = services.clock()
        self._actions: deque[t.Action] = deque()
        self._outbox = Outbox(device, frontend_path, services.publisher)
        self._changes = Changes()
        self._removal = Removal(device, frontend_path, services, self._wake)
        self._task: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._standing_down = False
        self._ring = RingCheck(handler)
        self.listeners: set[Callable[[], None]] = set()  # called after each event
        self._paused = False
        """An order to the worker needs xenstore, which is away: the queue waits for it."""

    # --- what happens to it

    def feed(self, event: t.Event) -> None:
        """Advance the life cycle by one event and carry out what follows.

        Raises:
            IllegalEventError, WrongInitialStateError: as `advance`; nothing has changed.
        """
        if self._standing_down:
            return
        if not self.lifecycle.taken_up and not isinstance(event, t.TakeUp):
            return  # not taken up yet, or forgotten: whatever was decided meanwhile is not for it
        step = advance(self.lifecycle, event)
        self.lifecycle = step.after
        self.log.debug("%s: %s", type(event).__name__, ", ".join(step.rules) or "noted")
        self._note(step)
        self._actions.extend(step.actions)
        self._wake()
        for listener in list(self.listeners):
            listener()

    def worker_said_illegal(self, event: t.Event) -> bool:
        """Feed an event that a worker caused; True if it was impossible (see `LinkOwner`)."""
        try:
            self.feed(event)
            return False
        except t.IllegalEventError as error:
            self.log.error("worker: process %s: %s", self.link.pid, error)
            return True

    def backend_event(self, node: str | None) -> None:
        """Something changed in the backend directory (S9); None: read everything."""
        self._changes.note_backend(node)
        self._wake()

    def frontend_event(self, untrusted_node: str) -> None:
        """Something changed in the frontend directory (S10); "": read everything."""
        self._changes.note_frontend(untrusted_node)
        self._wake()

    def xenstore_back(self) -> None:
        """The connection was lost and is there again: everything may have changed."""
        self._paused = False
        self.look_again()

    def look_again(self) -> None:
        """Read everything, and write what could not be written."""
        self._outbox.retry()
        self.reporter.retry()
        self._ring.look(self.lifecycle.worker)
        self.backend_event(None)
        self.frontend_event("")

    def adopt(self, orphan: Orphan) -> None:
        """Take over what an earlier supervisor left; the device has been taken up."""
        self.link.adopt(orphan)
        if orphan.pidfd is not None and orphan.record.frontend_path == self.frontend_path:
            self._ring.begin()
        elif orphan.pidfd is not None:
            self.log.warning("the frontend is another one than its worker's: replacing it")
            self.renew_worker()

    def gone(self) -> None:
        """The domain died or the directory was removed (S8, S19)."""
        if not self.lifecycle.gone and self.lifecycle.taken_up:
            self.feed(t.Gone())

    def release(self) -> None:
        """What the device was held for has changed."""
        self.link.forgive()
        if self.lifecycle.hold is not Hold.NONE:
            self.feed(t.Released())

    def replace_worker(self) -> None:
        """The operator wants a fresh worker; ends back-off."""
        self.link.forgive()
        self.renew_worker()

    def renew_worker(self) -> None:
        """A drained hand-over to a successor."""
        self.feed(t.ReplaceWorker())

    def set_log_level(self, level: str) -> None:
        """Here and in the worker (S25)."""
        self.log.set_level(level)
        self.link.log_level = level
        self.link.tell(m.SetLogLevel, level=level)

    def stand_down(self) -> None:
        """The supervisor ends: stop the worker, leave xenstore as it is."""
        self._standing_down = True
        self._actions.clear()
        self.link.cancel_backoff()
        self.link.stop()

    async def close(self) -> None:
        """Forgotten: nothing of it runs any more."""
        self.link.close()
        self._removal.cancel()
        if self._retry is not None:
            self._retry.cancel()
        self.reporter.over()
        if (task := self._task) is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # --- what its worker link says (LinkOwner)

    def report(self, blame: Blame, text: str, *, stage: str) -> None:
        """Tell the operator: log, event stream, `status`, and the error nodes."""
        # A toolstack that waits for the device is told only what waiting will not mend.
        hotplug = blame is Blame.OPERATOR and self.lifecycle.backend is XenbusState.INITIALISING
        self.reporter.report(blame, text, stage, hotplug=hotplug)
        self._wake()

    def nodes_given(self, nodes: m.Nodes, *, rewrite_state: bool | None) -> None:
        """Keep nodes for the next state, or write them now."""
        if rewrite_state is not None and self.lifecycle.worker is not WorkerPhase.SERVING:
            return  # said before the worker heard that its ring is to be given back
        self._changes.own_nodes |= nodes.keys()
        self._outbox.give(nodes, rewrite_state=rewrite_state)
        self._wake()

    # --- the queue

    def _wake(self) -> None:
        if self._task is None and self._has_work():
            self._task = asyncio.get_running_loop().create_task(self._work())

    def _has_work(self) -> bool:
        if self._standing_down or self._paused:
            return False
        waiting = self._actions or self._outbox or self._changes or self._removal.due
        return bool(waiting) or self._ring.due or self.reporter.pending

    async def _work(self) -> None:
        try:
            while self._has_work():
                try:
                    await self._work_once()
                except OvertakenError:
                    self._changes.backend = True
                except ConnectionLostError as error:
                    # After the reconnection everything is read again.
                    self.log.debug("%s", error)
                except BlamedError as error:
                    self.log.log(error.log_level, "%s", error)
                    self._retry_later()
                except Exception:  # one device's bug must not take the others along
                    self.log.exception("bug in the supervisor; please report it")
                    self._retry_later()
        finally:
            self._task = None

    async def _work_once(self) -> None:
        if self._actions:
            await self._execute(self._actions.popleft())
        elif self.reporter.pending:
            await self.reporter.write(self.frontend_path)
        elif self._changes.backend:
            self._changes.backend = False
            await self._refresh_backend()
        elif self._changes.frontend:
            self._changes.frontend = False
            state = await probe.frontend_state(self._services.store, self.frontend_path)
            if self.lifecycle.taken_up:
                self.feed(t.FrontendRead(state))
        elif self._ring.due:
            await self._compare_ring()
        elif self._outbox:
            await self._outbox.publish(self.lifecycle.backend)
        elif (changed := self._changes.next_node()) is not None:
            if changed.backend and self.lifecycle.hold is Hold.CONFIG:
                self.release()
            await self._pass_on(changed)
        elif self._removal.due:
            await self._removal.execute()

    async def _refresh_backend(self) -> None:
        seen = await probe.backend(self._services.store, self.path)
        if not seen.there or seen.frontend != self.frontend_path:
            self.gone()
        elif self.lifecycle.taken_up:
            self.feed(t.BackendRead(seen.state, seen.online))

    async def _compare_ring(self) -> None:
        known = self.link.file.ring
        another = await self._ring.is_another(self._services.store, self.frontend_path, known)
        if another and self.lifecycle.frontend is XenbusState.CONNECTED:
            self.log.warning("the frontend's ring is another one than its worker's: replacing it")
            self.renew_worker()  # the successor takes up what the frontend's directory says now

    async def _pass_on(self, changed: Changed) -> None:
        """Hand a changed node to the worker (S9, S10), if it has something to compare it with."""
        backend, node = changed
        listens = BACKEND_LISTENS if backend else FRONTEND_LISTENS
        if self.lifecycle.worker not in listens:
            return
        directory = self.path if backend else self.frontend_path
        untrusted_value = await probe.value(self._services.store, f"{directory}/{node}")
        if self.lifecycle.worker not in listens:
            return
        if backend:
            sent = self.link.tell(m.BackendChanged, node=node, value=untrusted_value)
        else:
            sent = self.link.tell(m.FrontendChanged, node=node, untrusted_value=untrusted_value)
        if not sent:
            self._changes.not_sent(changed)

    def worker_spoke(self) -> None:
        """It lives, so there may be room again for changes there was none for."""
        if self._changes.unsent:
            self._changes.retry()
            self._wake()

    # --- actions

    async def _execute(self, action: t.Action) -> None:
        match action:
            case t.StartWorker():
                self.log.debug("worker: start")
                self._outbox.clear()
                self.link.start()
            case t.AskInit() | t.AskInitialise():
                await self._ask(action)
            case t.AskConnected():
                self.link.tell(m.Connected)
            case t.AskDisconnect():
                if self.lifecycle.worker is WorkerPhase.DETACHING:
                    self.link.ask(m.Disconnect)
            case t.StopWorker(kill=kill):
                self.link.stop(kill=kill)
            case t.WriteState(state=state, hotplug=hotplug):
                await self._write_state(state, hotplug)
            case t.PublishNodes():
                self._outbox.hurry()
            case t.Forget():
                self._services.forget(self.id)

    async def _ask(self, action: t.AskInit | t.AskInitialise) -> None:
        """Send an order with the snapshots it needs, if its worker still waits for it then."""
        initialise = isinstance(action, t.AskInitialise)
        phase = WorkerPhase.ATTACHING if initialise else WorkerPhase.INITIALISING
        frontend_path = self.frontend_path if initialise else None
        try:
            backend, untrusted_frontend, failure = await read_both(
                self._services.store, self.path, frontend_path
            )
        except ConnectionLostError:
            # No fault of the worker's: it waits, and none of it counts as a failure.
            self._actions.appendleft(action)
            self._paused = True
            return
        if self.lifecycle.worker is not phase:
            return  # it died meanwhile; its successor, started after this, has its own order
        if failure is not None:
            self.link.failed(failure.blame, str(failure), "initialise" if initialise else "init")
        elif isinstance(action, t.AskInitialise):
            self.link.file.ring_given(ring_identity(self._handler, untrusted_frontend))
            nodes = {"backend": backend, "frontend": untrusted_frontend}
            self.link.ask(m.Initialise, **nodes, resume=action.resume)
        else:
            self._outbox.made_from = backend
            self.link.ask(m.Init, backend=backend)

    async def _write_state(self, state: XenbusState, hotplug: bool) -> None:
        try:
            await self._outbox.write_state(state, before=self.lifecycle.backend, hotplug=hotplug)
        except OvertakenError as error:
            self._changes.backend = True
            self.feed(t.WriteFailed())
            if isinstance(error, RemadeError):
                self.log.warning("%s", error)
                self.gone()  # and taken up anew, with another worker
        except HostError as error:
            self.feed(t.WriteFailed())
            if not isinstance(error, ConnectionLostError):
                text = f"state {self.lifecycle.backend} -> {state}: {self.id}: {error}"
                self.report(Blame.HOST, text, stage="write")
                self._retry_later()
        except Exception:
            self.feed(t.WriteFailed())  # or it would seem to be on its way for ever
            raise
        else:
            self.reporter.wrote(self.lifecycle.backend, state)
            self.since = self._services.clock()
            self.feed(t.StateWritten())

    def _retry_later(self) -> None:
        def again() -> None:
            self._retry = None
            self.look_again()

        if self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(WRITE_RETRY, again)

    def _note(self, step: t.Step) -> None:
        """Log what changed and tell the policy whether the device is served."""
        after = step.after
        self._removal.note(after)
        self.reporter.moved(step.before, after)
        self._ring.look(after.worker)
        served = after.backend is XenbusState.CONNECTED and after.worker is WorkerPhase.SERVING
        if served:
            self.link.policy.connected(self._services.clock())
            self.reporter.served()
        elif after.backend is not XenbusState.CONNECTED:
            self.link.policy.disconnected()
