# SPDX-License-Identifier: MIT
"""Devices unlike a disk: no frontend state, a hotplug script, Reconfiguring, no return."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest

from shared import lifecycle_types as t
from shared.errors import Blame
from shared.lifecycle import advance
from shared.lifecycle_rules import RULES
from shared.lifecycle_sets import FRONTEND_CLOSED, RECONFIGURATION
from shared.lifecycle_types import Hold, HotplugStatus, Lifecycle, WorkerPhase
from shared.traits import USUAL, Traits
from shared.xenbus import XenbusState as X
from tests.unit.shared.test_lifecycle import SERVING, run

SILENT = Traits(ignore_frontend_state=True)
SCRIPTED = Traits(hotplug="script")
MOVING = Traits(reconfigures=True)
FINAL = Traits(returns=False)
CONSOLE = replace(SERVING, frontend=X.UNKNOWN, traits=SILENT)
SCREEN = replace(SERVING, traits=MOVING)
SHARED = replace(
    SERVING, backend=X.INIT_WAIT, frontend=X.INITIALISED, greeted=False, traits=SCRIPTED
)


def read(
    state: X, hotplug: HotplugStatus = HotplugStatus.WAITING, *, online: bool = True
) -> t.BackendRead:
    """The backend directory was read again."""
    return t.BackendRead(state, online=online, hotplug=hotplug)


# --- no frontend state


def test_lifecycle_without_frontend_state_is_served_once_the_backend_is_ready() -> None:
    """From a fresh directory to Connected and greeted; the frontend says nothing at any time."""
    after, actions = run(
        Lifecycle(traits=SILENT),
        t.TakeUp(X.INITIALISING, X.UNKNOWN, online=True),
        t.WorkerHello(),
        t.WorkerInitialised(),
        t.StateWritten(),
        t.WorkerAttached(),
        t.StateWritten(),
    )

    assert [
        t.StartWorker(),
        t.AskInit(),
        t.WriteState(X.INIT_WAIT, hotplug=True),
        t.AskInitialise(resume=False),
        t.WriteState(X.CONNECTED),
        t.AskConnected(),
    ] == actions
    assert after == CONSOLE


@pytest.mark.parametrize("state", X)
def test_lifecycle_without_frontend_state_stays_served_whatever_is_read(state: X) -> None:
    """A `state` that somebody writes there says nothing, nor does its absence."""
    after, actions = run(CONSOLE, t.FrontendRead(state))

    assert actions == []
    assert after.worker is WorkerPhase.SERVING


def test_lifecycle_without_frontend_state_hands_its_ring_to_a_successor() -> None:
    """A worker that died is replaced, and the live ring is resumed."""
    _, actions = run(CONSOLE, t.WorkerExited(Hold.NONE), t.WorkerHello(), t.WorkerInitialised())

    assert [t.StartWorker(), t.AskInit(), t.AskInitialise(resume=True)] == actions


@pytest.mark.parametrize("forced", [X.CLOSING, X.CLOSED, X.CONNECTED])
def test_lifecycle_without_frontend_state_ends_when_the_toolstack_unplugs(forced: X) -> None:
    """Nobody would follow: the ring is let go at once, then Closed, and the worker ends."""
    written = [] if forced is X.CLOSED else [t.StateWritten()]
    ended = t.WorkerExited(Hold.NONE)

    unplug = read(forced, online=False)
    after, actions = run(CONSOLE, unplug, t.WorkerDisconnected(), *written, ended)

    writes = [t.WriteState(X.CLOSED)] if written else []
    assert [t.AskDisconnect(), *writes, t.StopWorker()] == actions
    assert after.backend is X.CLOSED


def test_lifecycle_without_frontend_state_starts_nothing_while_closed_cannot_be_written() -> None:
    """A closing console has no ring to serve, so no successor waits for xenstore."""
    unplugged = (read(X.CLOSING, online=False), t.WorkerExited(Hold.NONE))

    _, actions = run(CONSOLE, *unplugged, t.WriteFailed())

    assert [t.AskDisconnect(), t.WriteState(X.CLOSED)] == actions


def test_lifecycle_without_frontend_state_that_was_forced_closed_comes_back_online() -> None:
    """A frontend that cannot ask for a reset is served again as long as the device is online."""
    _, actions = run(CONSOLE, read(X.CLOSED), t.WorkerDisconnected(), t.StateWritten())

    assert [t.AskDisconnect(), t.WriteState(X.INITIALISING), t.AskInit()] == actions


def test_lifecycle_without_frontend_state_of_a_disabled_type_is_forgotten() -> None:
    """Switched off: Closing, the ring is let go without being asked, Closed, and no reset."""
    _, actions = run(
        CONSOLE,
        t.TypeEnabled(enabled=False),
        t.StateWritten(),
        t.WorkerDisconnected(),
        t.StateWritten(),
        t.WorkerExited(Hold.NONE),
    )

    assert [
        t.WriteState(X.CLOSING),
        t.AskDisconnect(),
        t.WriteState(X.CLOSED),
        t.StopWorker(),
        t.Forget(),
    ] == actions


def test_lifecycle_without_frontend_state_at_fault_waits_for_the_operator() -> None:
    """It cannot close and connect again, and must not be tried again without end."""
    closed, _ = run(
        CONSOLE,
        t.WorkerFailed(Blame.GUEST),
        t.StateWritten(),
        t.WorkerExited(Hold.NONE),
        t.StateWritten(),
    )
    after, actions = run(closed, t.Released(), t.StateWritten())

    assert (closed.backend, closed.hold, closed.writing) == (X.CLOSED, Hold.GUEST, None)
    assert [t.WriteState(X.INITIALISING), t.StartWorker()] == actions
    assert not after.fault


# --- hotplug


@pytest.mark.parametrize("hotplug", ["script", "none"])
def test_lifecycle_hotplug_status_of_another_is_not_written(hotplug: str) -> None:
    """InitWait comes without it; a script runs only then."""
    ready = Lifecycle(
        backend=X.INITIALISING,
        online=True,
        taken_up=True,
        worker=WorkerPhase.INITIALISING,
        traits=Traits(hotplug=hotplug),  # type: ignore[arg-type]
    )

    _, actions = run(ready, t.WorkerInitialised())

    assert [t.WriteState(X.INIT_WAIT)] == actions


@pytest.mark.parametrize("status", [HotplugStatus.WAITING, HotplugStatus.ERROR])
def test_lifecycle_hotplug_script_is_awaited_before_connected(status: HotplugStatus) -> None:
    """The ring runs, but the frontend is told so only when the script has succeeded."""
    waiting, before = run(SHARED, read(X.INIT_WAIT, status))
    _, after = run(waiting, read(X.INIT_WAIT, HotplugStatus.CONNECTED))

    assert before == []
    assert [t.WriteState(X.CONNECTED)] == after


def test_lifecycle_hotplug_script_that_was_faster_is_not_waited_for() -> None:
    """What it wrote before the frontend was there still counts."""
    early = replace(SHARED, worker=WorkerPhase.ATTACHING, hotplug=HotplugStatus.CONNECTED)

    _, actions = run(early, t.WorkerAttached())

    assert [t.WriteState(X.CONNECTED)] == actions


def test_lifecycle_hotplug_status_that_goes_again_leaves_the_connection() -> None:
    """A script that cleans up takes nothing back."""
    connected = replace(SERVING, traits=SCRIPTED, hotplug=HotplugStatus.CONNECTED)

    _, actions = run(connected, read(X.CONNECTED, HotplugStatus.WAITING))

    assert actions == []


# --- states 7 and 8


def test_lifecycle_reconfiguring_frontend_gets_its_ring_taken_up_again() -> None:
    """7: let go; backend 7: take up the live ring; 8; frontend 4: backend 4, and greeted again."""
    after, actions = run(
        SCREEN,
        t.FrontendRead(X.RECONFIGURING),
        t.WorkerDisconnected(),
        t.StateWritten(),
        t.WorkerInitialised(),
        t.WorkerAttached(),
        t.StateWritten(),
        t.FrontendRead(X.CONNECTED),
        t.StateWritten(),
    )

    assert [
        t.AskDisconnect(),
        t.WriteState(X.RECONFIGURING),
        t.AskInit(),
        t.AskInitialise(resume=True),
        t.WriteState(X.RECONFIGURED),
        t.WriteState(X.CONNECTED),
        t.AskConnected(),
    ] == actions
    assert after == SCREEN


def test_lifecycle_reconfiguration_that_the_toolstack_asks_for_waits_for_the_frontend() -> None:
    """Backend 7 alone changes nothing; the frontend's 7 has the ring taken up again."""
    asked, before = run(SCREEN, read(X.RECONFIGURING))
    _, after = run(
        asked,
        t.FrontendRead(X.RECONFIGURING),
        t.WorkerDisconnected(),
        t.WorkerInitialised(),
        t.WorkerAttached(),
    )

    assert before == []
    assert [
        t.AskDisconnect(),
        t.AskInit(),
        t.AskInitialise(resume=True),
        t.WriteState(X.RECONFIGURED),
    ] == after


@pytest.mark.parametrize("backend", [X.RECONFIGURING, X.RECONFIGURED, X.CLOSING])
def test_lifecycle_worker_death_while_reconfiguring_is_replaced(backend: X) -> None:
    """The ring is live throughout, and a successor takes it up."""
    busy = replace(SCREEN, backend=backend, frontend=X.RECONFIGURING, renewed=True)

    _, actions = run(busy, t.WorkerExited(Hold.NONE), t.WorkerHello(), t.WorkerInitialised())

    assert [t.StartWorker(), t.AskInit(), t.AskInitialise(resume=True)] == actions


def test_lifecycle_frontend_that_does_not_wait_for_reconfigured_is_connected() -> None:
    """It went on after the ring was taken up again: nothing is left to do."""
    hasty = replace(SCREEN, backend=X.RECONFIGURING, frontend=X.RECONFIGURING, renewed=True)

    _, actions = run(hasty, t.FrontendRead(X.CONNECTED))

    assert [t.WriteState(X.CONNECTED)] == actions


@pytest.mark.parametrize("backend", sorted(RECONFIGURATION))
def test_lifecycle_reconfiguring_device_is_taken_up_by_the_next_supervisor(backend: X) -> None:
    """An earlier supervisor may have left it in the middle."""
    _, actions = run(Lifecycle(traits=MOVING), t.TakeUp(backend, X.RECONFIGURING, online=True))

    assert [t.StartWorker()] == actions


def test_lifecycle_reconfiguring_frontend_of_another_type_changes_nothing() -> None:
    """A disk is served on, and the backend never leaves Connected for it."""
    after, actions = run(
        SERVING, t.FrontendRead(X.RECONFIGURING), t.BackendRead(X.RECONFIGURING, online=True)
    )

    assert actions == []
    assert after.backend is X.CONNECTED


# --- no return


def test_lifecycle_closed_device_without_return_ends_its_worker() -> None:
    """Nobody will need it; a frontend that starts again finds Closed."""
    closed = replace(SERVING, backend=X.CLOSING, frontend=X.CLOSED, traits=FINAL)

    _, actions = run(
        replace(closed, worker=WorkerPhase.DETACHING),
        t.WorkerDisconnected(),
        t.StateWritten(),
        t.FrontendRead(X.INITIALISING),
        t.WorkerExited(Hold.NONE),
    )

    assert [t.WriteState(X.CLOSED), t.StopWorker()] == actions


# --- the whole space

OTHERS = [
    SILENT,
    SCRIPTED,
    MOVING,
    FINAL,
    Traits(ignore_frontend_state=True, hotplug="script", returns=False),
    Traits(hotplug="script", reconfigures=True, returns=False),
]


def situations(traits: Traits, *, enabled: bool = True) -> Iterator[Lifecycle]:
    """Every combination of what the rows of these traits look at."""
    statuses = list(HotplugStatus) if traits.hotplug == "script" else [HotplugStatus.WAITING]
    renewed = (False, True) if traits.reconfigures else (False,)
    flags = itertools.product((False, True), repeat=2)
    holds = (Hold.NONE, Hold.GUEST)
    for backend, frontend, worker, hold, status, new, (online, fault) in itertools.product(
        X, X, WorkerPhase, holds, statuses, renewed, flags
    ):
        yield Lifecycle(
            backend=backend,
            frontend=frontend,
            online=online,
            taken_up=True,
            enabled=enabled,
            worker=worker,
            hold=hold,
            fault=fault,
            frontend_was_connected=backend is not X.INIT_WAIT,
            greeted=True,
            traits=traits,
            hotplug=status,
            renewed=new,
        )


@pytest.mark.parametrize("traits", OTHERS, ids=str)
def test_s17_dispatcher_from_every_situation_of_other_devices_ends_and_keeps_the_rules(
    traits: Traits,
) -> None:
    """A rest within ten rows; one worker, one write; no closed ring; no Connected too early."""
    for now in situations(traits):
        step = advance(now, t.FrontendRead(now.frontend))
        starts = [action for action in step.actions if isinstance(action, t.StartWorker)]
        writes = [action for action in step.actions if isinstance(action, t.WriteState)]
        rings = [action for action in step.actions if isinstance(action, t.AskInitialise)]
        closed = step.after.frontend_counts_as in FRONTEND_CLOSED

        assert len(step.rules) <= 10
        assert len(starts) <= (now.worker is WorkerPhase.ABSENT)
        assert len(writes) <= 1
        assert not (rings and closed)
        assert not (closed and step.after.worker is WorkerPhase.SERVING)
        for write in writes:
            assert write.state is not X.CONNECTED or step.after.hotplug_done
            assert write.state not in RECONFIGURATION or traits.reconfigures
            assert write.state is not X.INITIALISING or traits.returns
            assert write.hotplug == (write.state is X.INIT_WAIT and traits.hotplug == "ours")


def ends(now: Lifecycle) -> bool:
    """Whether a device comes to rest if xenstore and its worker answer and nobody else acts."""
    answers = {
        WorkerPhase.STARTING: t.WorkerHello(),
        WorkerPhase.INITIALISING: t.WorkerInitialised(),
        WorkerPhase.ATTACHING: t.WorkerAttached(),
        WorkerPhase.DETACHING: t.WorkerDisconnected(),
        WorkerPhase.STOPPING: t.WorkerExited(Hold.NONE),
    }
    for _ in range(24):
        if not now.taken_up:
            return True
        if now.writing is not None:
            now = advance(now, t.StateWritten()).after
        elif now.worker in answers:
            now = advance(now, answers[now.worker]).after
        else:
            return True
    return False


@pytest.mark.parametrize("traits", [USUAL, *OTHERS], ids=str)
def test_s17_dispatcher_left_alone_comes_to_rest(traits: Traits) -> None:
    """No livelock: without news from guest or toolstack, orders and writes come to an end."""
    for now in situations(traits):
        assert ends(advance(now, t.FrontendRead(now.frontend)).after), now


def test_s17_every_row_of_the_table_is_reached() -> None:
    """A row that can never match is no rule."""
    reached = set(advance(replace(SERVING, greeted=False), t.FrontendRead(SERVING.frontend)).rules)
    each = [(traits, True) for traits in (USUAL, SILENT, MOVING, FINAL)]
    for traits, enabled in [(USUAL, False), *each]:
        for now in situations(traits, enabled=enabled):
            reached.update(advance(now, t.FrontendRead(now.frontend)).rules)
    for worker in (WorkerPhase.ABSENT, WorkerPhase.SERVING):
        reached.update(advance(replace(SERVING, worker=worker), t.Gone()).rules)

    assert reached == {rule.name for rule in RULES}
