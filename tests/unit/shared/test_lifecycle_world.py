# SPDX-License-Identifier: MIT
"""The life cycle against a small world that does anything in any order.

The world has a toolstack, a frontend that follows the protocol when it is let, and workers that
answer late, fail and die. Whatever happened before, two things must hold: there are never two
workers, and once everybody behaves the device is Connected on both sides, or closed and
forgotten if it was unplugged.

The same world is run for each way in which devices differ (`Traits`). Then a hotplug script writes
too, the toolstack asks for reconfigurations, and no ring is given to a worker, and no Connected
written, before its time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shared import lifecycle_types as t
from shared.errors import Blame
from shared.lifecycle import advance
from shared.lifecycle_sets import FRONTEND_CLOSED
from shared.lifecycle_types import Hold, HotplugStatus, Lifecycle, WorkerPhase
from shared.traits import USUAL, Traits
from shared.xenbus import XenbusState as X

FRONTEND_STATES = st.sampled_from(sorted(X))


class World(RuleBasedStateMachine):
    """One device, its parties, and what is on its way between them."""

    TRAITS: ClassVar[Traits] = USUAL

    def __init__(self) -> None:
        super().__init__()
        self.life = Lifecycle(traits=self.TRAITS)
        self.hotplug = HotplugStatus.WAITING
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
                assert self.life.frontend_counts_as not in FRONTEND_CLOSED, "a closed ring"
                self.asked = [t.WorkerAttached()]
            case t.AskDisconnect():
                self.asked = [t.WorkerDisconnected()]
            case t.StopWorker():
                assert self.alive
                self.asked = [t.WorkerExited(Hold.NONE)]
            case t.WriteState(state=state, hotplug=hotplug):
                due = self.TRAITS.hotplug == "script" and state is X.CONNECTED
                assert not due or self.hotplug is HotplugStatus.CONNECTED, "before the script"
                assert not hotplug or self.TRAITS.hotplug == "ours", "in the script's place"
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
            self.feed(t.BackendRead(self.node, online=False, hotplug=self.hotplug))

    @rule()
    def toolstack_asks_for_reconfiguration(self) -> None:
        """state=7, of a device that is Connected; not every type knows it."""
        if self.going() and self.life.writing is None and self.life.backend is X.CONNECTED:
            if self.TRAITS.reconfigures:
                self.node = X.RECONFIGURING
            self.feed(t.BackendRead(X.RECONFIGURING, self.online, self.hotplug))

    @rule(status=st.sampled_from(HotplugStatus))
    def script_writes(self, status: HotplugStatus) -> None:
        """A hotplug script; the supervisor reads it only where one is due."""
        if self.going() and self.TRAITS.hotplug == "script":
            self.hotplug = status
            self.feed(t.BackendRead(self.life.backend, self.online, status))

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
    def a_closed_ring_is_not_served(self) -> None:
        """Neither end closed, or the worker is on its way out of the ring."""
        now = self.life
        if self.going() and not now.gone and now.writing is None:
            closed = now.frontend_counts_as in FRONTEND_CLOSED or now.backend is X.CLOSED
            assert not (closed and now.worker is WorkerPhase.SERVING)

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
        final = not self.TRAITS.returns and now.backend is X.CLOSED
        if self.online and not final:
            return (
                (now.backend, now.frontend_counts_as) == (X.CONNECTED, X.CONNECTED)
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
            if self.hotplug is not HotplugStatus.CONNECTED and self.life.backend is X.INIT_WAIT:
                self.hotplug = HotplugStatus.CONNECTED
            # A toolstack's unplug that met a write of ours is seen by the next read.
            if not self.online and self.node not in (X.CLOSING, X.CLOSED):
                self.node = X.CLOSING
            self.feed(t.BackendRead(self.node, self.online, self.hotplug))
            self.frontend = self.polite_frontend()
            self.feed(t.FrontendRead(self.frontend))

    def polite_frontend(self) -> X:
        """What xen-blkfront does on seeing the backend's state; xen-scsifront reconfigures."""
        backend, own = self.life.backend, self.frontend
        if backend is X.CLOSING:
            return X.CLOSED
        if self.TRAITS.reconfigures and own in (X.CONNECTED, X.RECONFIGURING):
            if backend is X.RECONFIGURING:
                return X.RECONFIGURING
            if backend is X.RECONFIGURED:
                return X.CONNECTED
            if backend is X.CONNECTED:
                return own
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


class WorldWithoutFrontendState(World):
    """A primary console: whatever stands for the frontend's state says nothing."""

    TRAITS = Traits(ignore_frontend_state=True)


class WorldWithScript(World):
    """A network interface: a script says when it is joined to its bridge."""

    TRAITS = Traits(hotplug="script")


class WorldThatReconfigures(World):
    """Frontends that go through Reconfiguring, and toolstacks that ask for it."""

    TRAITS = Traits(reconfigures=True)


class WorldWithoutReturn(World):
    """Closed is the end."""

    TRAITS = Traits(returns=False)


class WorldOfEverything(World):
    """The rows do not get in each other's way."""

    TRAITS = Traits(hotplug="script", reconfigures=True, returns=False)


class WorldOfSilence(World):
    """A console that a script opens and that never comes back."""

    TRAITS = Traits(ignore_frontend_state=True, hotplug="script", returns=False)


EXAMPLES = settings(max_examples=150, stateful_step_count=30, deadline=None)
World.TestCase.settings = EXAMPLES
TestWorld = World.TestCase
WorldWithoutFrontendState.TestCase.settings = EXAMPLES
TestWorldWithoutFrontendState = WorldWithoutFrontendState.TestCase
WorldWithScript.TestCase.settings = EXAMPLES
TestWorldWithScript = WorldWithScript.TestCase
WorldThatReconfigures.TestCase.settings = EXAMPLES
TestWorldThatReconfigures = WorldThatReconfigures.TestCase
WorldWithoutReturn.TestCase.settings = EXAMPLES
TestWorldWithoutReturn = WorldWithoutReturn.TestCase
WorldOfEverything.TestCase.settings = EXAMPLES
TestWorldOfEverything = WorldOfEverything.TestCase
WorldOfSilence.TestCase.settings = EXAMPLES
TestWorldOfSilence = WorldOfSilence.TestCase
