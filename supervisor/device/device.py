# SPDX-License-Identifier: MIT
"""A device: its life cycle, and the deeds that follow from it.

Everything that happens to the device becomes an event of `shared.lifecycle`; every action that
comes out is carried out here, in order. Reading and writing xenstore takes time, so actions and
reads wait for the device's one task: a read can never be overtaken by a write of our own, which is
what makes "state is 1 again" mean "another device".

Invariants:

- The life cycle changes only in `feed`. A state is logged `old -> new` after it was written and
  before it is believed (S4).
- The frontend's nodes are passed on as they are. Only `state` is read here, by a reader that never
  fails on content.

Does not know why the world changed: `supervisor.device.scanner` says that something did.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from config.model import TypeConfig
from shared import lifecycle_types as t
from shared import messages as m
from shared.device_id import DeviceId
from shared.device_types import DeviceType
from shared.errors import Blame, HostError
from shared.lifecycle import advance
from shared.lifecycle_types import Hold, HotplugStatus, Lifecycle, WorkerPhase
from shared.logs import DeviceLogger
from shared.xenbus import XenbusState
from shared.xenstore.errors import ConnectionLostError
from supervisor.device.changes import BACKEND_LISTENS, FRONTEND_LISTENS, Changed, Changes
from supervisor.device.outbox import Outbox
from supervisor.device.removal import Removal
from supervisor.device.reporter import Reporter
from supervisor.device.ring_check import RingCheck
from supervisor.device.surroundings import DeviceSurroundings
from supervisor.device.task import DeviceTask
from supervisor.workers.link import WorkerLink
from supervisor.workers.records import Orphan, ring_identity
from supervisor.workers.words import Answer, Failure, NodeWrite, Word
from supervisor.xenstore import probe
from supervisor.xenstore.paths import backend_path
from supervisor.xenstore.publisher import OvertakenError, RemadeError
from supervisor.xenstore.snapshot import read_both


class Device:
    """One device of the registry, from set-up (S11) to `Forget` (S8)."""

    def __init__(
        self,
        device: DeviceId,
        frontend_path: str,
        around: DeviceSurroundings,
        type_config: TypeConfig,
        handler: DeviceType,
        life: Lifecycle,
    ) -> None:
        """`life` is its beginning; `adopt` follows if an earlier supervisor left a worker."""
        self.id = device
        self._handler = handler
        self._around = around
        self.frontend_path = frontend_path
        self.path = backend_path(around.own_path, device)
        level = type_config.log_level or around.config.log.level
        self.log = DeviceLogger(device, level)
        self.reporter = Reporter(device, around, self.log)
        self.lifecycle = life
        self.link = WorkerLink(device, around, type_config, handler, self, self.log)
        self.since = around.clock()
        self._actions: deque[t.Action] = deque()
        traits = life.traits
        self._outbox = Outbox(
            device, frontend_path, around.publisher, reconfigures=traits.reconfigures
        )
        self._changes = Changes(script=traits.hotplug == "script")
        self._removal = Removal(device, frontend_path, around, self._wake)
        self._ring = RingCheck(handler)
        self._task = DeviceTask(
            self.log,
            has_work=self._has_work,
            work_once=self._work_once,
            look_again=self.look_again,
        )
        self.listeners: set[Callable[[], None]] = set()
        """Called after each event."""
        self._standing_down = False
        self._paused = False
        """An order to the worker needs xenstore, which is away: all work waits for it."""

    # --- what happens to it

    def feed(self, event: t.Event) -> None:
        """Advance the life cycle by one event and carry out what follows.

        Raises:
            IllegalEventError, WrongInitialStateError: as `advance`; nothing has changed.
        """
        if self._standing_down:
            return
        if not self.lifecycle.taken_up and not isinstance(event, t.TakeUp):
            return  # not taken up yet, or forgotten: what was decided meanwhile is not for it
        step = advance(self.lifecycle, event)
        self.lifecycle = step.after
        self.log.debug("%s: %s", type(event).__name__, ", ".join(step.rules) or "noted")
        self._note(step)
        self._actions.extend(step.actions)
        self._wake()
        for listener in list(self.listeners):
            listener()

    def backend_event(self, node: str | None) -> None:
        """Something changed in the backend directory (S9); None: read everything."""
        self._changes.note_backend(node)
        self._wake()

    def frontend_event(self, untrusted_node: str) -> None:
        """Something changed in the frontend directory (S10); "": read everything."""
        self._changes.note_frontend(untrusted_node)
        self._wake()

    def xenstore_back(self) -> None:
        """The connection was lost and is back: everything may have changed."""
        self._paused = False
        self.look_again()

    def look_again(self) -> None:
        """Read everything again, and write what could not be written."""
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
        """The reason for a hold is over."""
        self.link.succession.forgive()
        if self.lifecycle.hold is not Hold.NONE:
            self.feed(t.Released())

    def replace_worker(self) -> None:
        """The operator wants a fresh worker, without back-off."""
        self.link.succession.forgive()
        self.renew_worker()

    def renew_worker(self) -> None:
        """Hand over to a successor in order."""
        self.feed(t.ReplaceWorker())

    def set_log_level(self, level: str) -> None:
        """Change the level here and in the worker (S25)."""
        self.log.set_level(level)
        self.link.log_level = level
        self.link.tell(m.SetLogLevel, level=level)

    def stand_down(self) -> None:
        """The supervisor ends: stop the worker, leave xenstore as it is."""
        self._standing_down = True
        self._actions.clear()
        self.link.succession.cancel()
        self.link.stop()

    async def close(self) -> None:
        """The device is forgotten: stop its timers and its task."""
        self.link.close()
        self._removal.cancel()
        self.reporter.over()
        await self._task.close()

    # --- what its worker's link says (LinkOwner)

    def heard(self, word: Word) -> None:
        """Take a word of its worker, or a failure that the link found.

        Raises:
            IllegalEventError: it cannot be true now.
        """
        if self._changes.unsent:
            # The worker reads again, so its queue may have room for changes that did not fit.
            self._changes.retry()
            self._wake()
        match word:
            case Answer(event=event, nodes=nodes):
                self._publish(nodes, rewrite_state=None)
                self.feed(event)
            case NodeWrite(nodes=nodes, rewrite_state=rewrite_state):
                # Not before the ring runs, nor after the worker was told to give it back.
                if self.lifecycle.worker is WorkerPhase.SERVING:
                    self._publish(nodes, rewrite_state=rewrite_state)
            case Failure(blame=blame, text=text, stage=stage):
                self.report(blame, text, stage=stage)
                self.feed(t.WorkerFailed(blame))

    def report(self, blame: Blame, text: str, *, stage: str) -> None:
        """Tell the operator: log, event stream, `status`, and the error nodes."""
        # A toolstack that waits for the device is told only of what waiting will not mend.
        now = self.lifecycle
        waiting = now.backend is XenbusState.INITIALISING and now.traits.hotplug == "ours"
        hotplug = blame is Blame.OPERATOR and waiting
        self.reporter.report(blame, text, stage, hotplug=hotplug)
        self._wake()

    def _publish(self, nodes: m.Nodes, *, rewrite_state: bool | None) -> None:
        """Keep nodes for the next state (None), or write them now."""
        self._changes.own_nodes |= nodes.keys()
        self._outbox.give(nodes, rewrite_state=rewrite_state)
        self._wake()

    # --- what waits for its task

    def _wake(self) -> None:
        self._task.wake()

    def _has_work(self) -> bool:
        if self._standing_down or self._paused:
            return False
        waiting = self._actions or self._outbox or self._changes or self._removal.due
        return bool(waiting) or self._ring.due or self.reporter.pending

    async def _work_once(self) -> None:
        try:
            await self._do_next()
        except OvertakenError:
            self._changes.backend = True

    async def _do_next(self) -> None:
        if self._actions:
            await self._execute(self._actions.popleft())
        elif self.reporter.pending:
            await self.reporter.write(self.frontend_path)
        elif self._changes.backend:
            self._changes.backend = False
            await self._refresh_backend()
        elif self._changes.frontend:
            self._changes.frontend = False
            state = await probe.frontend_state(self._around.store, self.frontend_path)
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
        script = self.lifecycle.traits.hotplug == "script"
        seen = await probe.backend(self._around.store, self.path, script=script)
        if not seen.there or seen.frontend != self.frontend_path:
            self.gone()
        elif self.lifecycle.taken_up:
            failed = self.lifecycle.hotplug is not seen.hotplug is HotplugStatus.ERROR
            self.feed(t.BackendRead(seen.state, seen.online, seen.hotplug))
            if failed:
                text = f"hotplug script: {self.id}: {seen.hotplug_error or 'it does not say why'}"
                self.report(Blame.HOST, text, stage="hotplug")

    async def _compare_ring(self) -> None:
        known = self.link.file.ring
        another = await self._ring.is_another(self._around.store, self.frontend_path, known)
        if another and self.lifecycle.frontend_counts_as is XenbusState.CONNECTED:
            self.log.warning("the frontend's ring is another one than its worker's: replacing it")
            self.renew_worker()  # the successor takes up what the frontend's directory says now

    async def _pass_on(self, changed: Changed) -> None:
        """Hand a changed node to the worker (S9, S10), if it has something to compare it with."""
        backend, node = changed
        listens = BACKEND_LISTENS if backend else FRONTEND_LISTENS
        if self.lifecycle.worker not in listens:
            return
        directory = self.path if backend else self.frontend_path
        untrusted_value = await probe.value(self._around.store, f"{directory}/{node}")
        if self.lifecycle.worker not in listens:
            return
        if backend:
            sent = self.link.tell(m.BackendChanged, node=node, value=untrusted_value)
        else:
            sent = self.link.tell(m.FrontendChanged, node=node, untrusted_value=untrusted_value)
        if not sent:
            self._changes.not_sent(changed)

    # --- actions

    async def _execute(self, action: t.Action) -> None:
        match action:
            case t.StartWorker():
                self.log.debug("worker: start")
                self._outbox.clear()
                self.link.start(self.frontend_path)
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
                self._around.forget(self.id)

    async def _ask(self, action: t.AskInit | t.AskInitialise) -> None:
        """Send an order with the snapshots it needs, if its worker still waits for it then."""
        initialise = isinstance(action, t.AskInitialise)
        phase = WorkerPhase.ATTACHING if initialise else WorkerPhase.INITIALISING
        frontend_path = self.frontend_path if initialise else None
        try:
            backend, untrusted_frontend, failure = await read_both(
                self._around.store, self.path, frontend_path
            )
        except ConnectionLostError:
            # Not the worker's fault: it waits, and that does not count as a failure.
            self._actions.appendleft(action)
            self._paused = True
            return
        if self.lifecycle.worker is not phase:
            return  # it died meanwhile; its successor, started after this, has its own order
        if failure is not None:
            stage = "initialise" if initialise else "init"
            self.link.failed(Failure(failure.blame, str(failure), stage))
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
                self.gone()  # and taken up again, with another worker
        except HostError as error:
            self.feed(t.WriteFailed())
            if not isinstance(error, ConnectionLostError):
                text = f"state {self.lifecycle.backend} -> {state}: {self.id}: {error}"
                self.report(Blame.HOST, text, stage="write")
                self._task.retry_later()
        except Exception:
            self.feed(t.WriteFailed())  # or it would seem to be under way for ever
            raise
        else:
            self.reporter.wrote(self.lifecycle.backend, state)
            self.since = self._around.clock()
            self.feed(t.StateWritten())

    def _note(self, step: t.Step) -> None:
        """Log what changed and tell the policy whether the device is served."""
        after = step.after
        self._removal.note(after)
        self.reporter.moved(step.before, after)
        self._ring.look(after.worker)
        served = after.backend is XenbusState.CONNECTED and after.worker is WorkerPhase.SERVING
        if served:
            self.link.succession.policy.connected(self._around.clock())
            self.reporter.served()
        elif after.backend is not XenbusState.CONNECTED:
            self.link.succession.policy.disconnected()
