# SPDX-License-Identifier: MIT
"""The life cycle against a small world that does anything in any order.

The world has a toolstack, a frontend that follows the protocol when it is let, and workers that
answer late, fail and die. Whatever happened before, two things must hold: there are never two
workers, and once everybody behaves the device is Connected on both sides, or closed and
forgotten if it was unplugged.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shared import lifecycle_types as t
from shared.errors import Blame
from shared.lifecycle import advance
from shared.lifecycle_types import Hold, Lifecycle, WorkerPhase
from shared.xenbus import XenbusState as X

FRONTEND_STATES = st.sampled_from(sorted(X))


class World(RuleBasedStateMachine):
    """One device, its parties, and what is on its way between them."""

    def __init__(self) -> None:
        super().__init__()
        self.life = Lifecycle()
        self.alive = False
        self.asked: list[t.Event] = []
        self.frontend = X.INITIALISING
        self.online = True
        self.node = X.INITIALISING
        self.forgotten = False
        self.feed(t.TakeUp(X.INITIALISING, X.INITIALISING, online=True))

    def feed(self, event: t.Event) -> None:
        """Give an event to the machine and carry out what it asks for."""
        step = advance(self.life, event)
        self.life = step.after
        for action in step.actions:
            self.carry_out(action)

    def carry_out(self, action: t.Action) -> None:
        """What the supervisor and the worker would do; answers wait in `asked`."""
        match action:
            case t.StartWorker():
                assert not self.alive, "a second worker"
                self.alive = True
                self.asked = [t.WorkerHello()]
            case t.AskInit():
                self.asked = [t.WorkerInitialised()]
            case t.AskInitialise():
                self.asked = [t.WorkerAttached()]
            case t.AskDisconnect():
                self.asked = [t.WorkerDisconnected()]
            case t.StopWorker():
                assert self.alive
                self.asked = [t.WorkerExited(Hold.NONE)]
            case t.Forget():
                assert not self.alive
                self.forgotten = True

    def going(self) -> bool:
        """Whether there is a device left to talk about."""
        return not self.forgotten

    @rule()
    def worker_answers(self) -> None:
        """The oldest question is answered."""
        if self.going() and self.asked:
            event = self.asked.pop(0)
            if isinstance(event, t.WorkerExited):
                self.alive = False
            self.feed(event)

    @rule(blame=st.sampled_from(Blame))
    def worker_fails(self, blame: Blame) -> None:
        """A hook or the ring fails."""
        if self.going() and self.alive and self.life.worker is not WorkerPhase.STOPPING:
            self.asked = []
            self.feed(t.WorkerFailed(blame))

    @rule(hold=st.sampled_from([Hold.NONE, Hold.BACKOFF, Hold.QUARANTINED, Hold.CONFIG]))
    def worker_dies(self, hold: Hold) -> None:
        """The process is gone at any moment."""
        if self.going() and self.alive:
            self.alive, self.asked = False, []
            self.feed(t.WorkerExited(hold))

    @rule(worked=st.booleans())
    def write_ends(self, worked: bool) -> None:
        """Xenstore answers the write under way."""
        if self.going() and self.life.writing is not None:
            if worked:
                self.node = self.life.writing
            self.feed(t.StateWritten() if worked else t.WriteFailed())

    @rule(state=FRONTEND_STATES)
    def frontend_writes(self, state: X) -> None:
        """The frontend writes whatever it likes."""
        self.frontend = state
        if self.going():
            self.feed(t.FrontendRead(state))

    @rule()
    def toolstack_unplugs(self) -> None:
        """online=0, state=5."""
        self.online = False
        if self.going() and self.life.writing is None:
            self.node = X.CLOSING
            self.feed(t.BackendRead(self.node, online=False))

    @rule()
    def operator_restarts(self) -> None:
        """`xenbackd restart`."""
        if self.going():
            self.feed(t.ReplaceWorker())

    @rule(enabled=st.booleans())
    def operator_switches(self, enabled: bool) -> None:
        """The type is switched off and on."""
        if self.going():
            self.feed(t.TypeEnabled(enabled))

    @invariant()
    def machine_and_world_agree_on_the_worker(self) -> None:
        """ABSENT exactly when there is no process."""
        if self.going():
            assert (self.life.worker is WorkerPhase.ABSENT) == (not self.alive)

    def teardown(self) -> None:
        """From here on everybody behaves; the device must come to where it belongs."""
        if not self.forgotten:
            self.feed(t.TypeEnabled(enabled=True))
        for _ in range(60):
            if self.forgotten or self.settled():
                return
            self.behave()
        raise AssertionError(f"never settled: {replace(self.life)}, frontend {self.frontend}")

    def settled(self) -> bool:
        """Connected on both sides and served, or closed for good."""
        now = self.life
        if self.online:
            return (
                (now.backend, now.frontend) == (X.CONNECTED, X.CONNECTED)
                and now.worker is WorkerPhase.SERVING
                and now.greeted
            )
        return now.backend is X.CLOSED and now.worker is WorkerPhase.ABSENT

    def behave(self) -> None:
        """One round of everybody doing what the protocol says."""
        self.worker_answers()
        if self.going() and self.life.writing is not None:
            self.node = self.life.writing
            self.feed(t.StateWritten())
        if self.going() and self.life.hold is not Hold.NONE:
            self.feed(t.Released())
        if self.going():
            # A toolstack's unplug that met a write of ours is seen by the next read.
            if not self.online and self.node not in (X.CLOSING, X.CLOSED):
                self.node = X.CLOSING
            self.feed(t.BackendRead(self.node, self.online))
            self.frontend = self.polite_frontend()
            self.feed(t.FrontendRead(self.frontend))

    def polite_frontend(self) -> X:
        """What xen-blkfront does on seeing the backend's state."""
        backend, own = self.life.backend, self.frontend
        if backend is X.CLOSING:
            return X.CLOSED
        if own in (X.UNKNOWN, X.INVALID, X.RECONFIGURING, X.RECONFIGURED):
            return X.CLOSED
        if backend is X.CLOSED:
            return X.INITIALISING if own is X.CLOSED else X.CLOSED
        if own is X.CLOSING:
            return X.CLOSED
        if backend is X.INIT_WAIT and own is X.INITIALISING:
            return X.INITIALISED
        if backend is X.CONNECTED and own is X.INITIALISED:
            return X.CONNECTED
        if own is X.CONNECTED and backend is not X.CONNECTED:
            return X.CLOSED
        if own is X.INIT_WAIT:
            return X.INITIALISED
        return own


World.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestWorld = World.TestCase
