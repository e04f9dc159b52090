# SPDX-License-Identifier: MIT
"""The pure life cycle: the seed's transitions S11..S17, the closing paths, illegal events."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from shared import lifecycle_types as t
from shared.errors import Blame
from shared.lifecycle import TAKE_UP_STATES, advance
from shared.lifecycle_table import markdown
from shared.lifecycle_types import Hold, Lifecycle, WorkerPhase
from shared.traits import Traits
from shared.xenbus import XenbusState as X
from tests.root import ROOT

NEW = Lifecycle()
SERVING = Lifecycle(
    backend=X.CONNECTED,
    frontend=X.CONNECTED,
    online=True,
    taken_up=True,
    worker=WorkerPhase.SERVING,
    frontend_was_connected=True,
    greeted=True,
)


def run(now: Lifecycle, *events: t.Event) -> tuple[Lifecycle, list[t.Action]]:
    """Apply events one after the other; the end and all actions."""
    actions: list[t.Action] = []
    for event in events:
        step = advance(now, event)
        now = step.after
        actions += step.actions
    return now, actions


def connect(now: Lifecycle = NEW) -> tuple[Lifecycle, list[t.Action]]:
    """From a toolstack's fresh directory to Connected on both sides."""
    return run(
        now,
        t.TakeUp(X.INITIALISING, X.INITIALISING, online=True),
        t.WorkerHello(),
        t.WorkerInitialised(),
        t.StateWritten(),
        t.FrontendRead(X.INITIALISED),
        t.WorkerAttached(),
        t.StateWritten(),
        t.FrontendRead(X.CONNECTED),
    )


def test_lifecycle_from_initialising_to_connected_does_each_step_once() -> None:
    """A new device is initialised, waited for, attached, connected and greeted, in that order."""
    after, actions = connect()

    assert [
        t.StartWorker(),
        t.AskInit(),
        t.WriteState(X.INIT_WAIT, hotplug=True),
        t.AskInitialise(resume=False),
        t.WriteState(X.CONNECTED),
        t.AskConnected(),
    ] == actions
    assert after == SERVING


@pytest.mark.parametrize("state", sorted(set(X) - TAKE_UP_STATES))
def test_s11_take_up_in_wrong_initial_state_is_refused_and_changes_nothing(state: X) -> None:
    """A backend directory in a state nobody can take up is an error that names the state."""
    with pytest.raises(t.WrongInitialStateError, match="initial backend state is wrong"):
        advance(NEW, t.TakeUp(state, X.INITIALISING, online=True))

    assert Lifecycle() == NEW


def test_s12_init_while_offline_waits_for_online() -> None:
    """No worker is started for a device that is not online; `online` turning 1 starts it."""
    waiting, before = run(NEW, t.TakeUp(X.INITIALISING, X.INITIALISING, online=False))
    _, after = run(waiting, t.BackendRead(X.INITIALISING, online=True))

    assert before == []
    assert [t.StartWorker()] == after


@pytest.mark.parametrize("frontend", [X.UNKNOWN, X.INITIALISING, X.INIT_WAIT, X.INVALID])
def test_s13_initialise_before_the_frontend_is_ready_waits(frontend: X) -> None:
    """InitWait lasts until the frontend is Initialised or Connected."""
    ready = replace(SERVING, backend=X.INIT_WAIT, worker=WorkerPhase.READY, greeted=False)

    _, actions = run(replace(ready, frontend=X.UNKNOWN), t.FrontendRead(frontend))

    assert actions == []


@pytest.mark.parametrize("frontend", [X.INITIALISED, X.CONNECTED])
def test_s13_initialise_with_a_ready_frontend_attaches(frontend: X) -> None:
    """Initialised and Connected both offer a ring."""
    ready = Lifecycle(backend=X.INIT_WAIT, online=True, taken_up=True, worker=WorkerPhase.READY)

    _, actions = run(ready, t.FrontendRead(frontend))

    assert [t.AskInitialise(resume=False)] == actions


def test_s13_initialise_of_a_type_that_ignores_the_frontend_does_not_wait() -> None:
    """A type with the flag attaches as soon as InitWait is published."""
    waiting = Lifecycle(
        backend=X.INITIALISING,
        online=True,
        taken_up=True,
        worker=WorkerPhase.READY,
        writing=X.INIT_WAIT,
        traits=Traits(ignore_frontend_state=True),
    )

    _, actions = run(waiting, t.StateWritten())

    assert [t.AskInitialise(resume=False)] == actions


@pytest.mark.parametrize("blame", [Blame.HOST, Blame.OPERATOR, Blame.US])
def test_s13_initialise_that_fails_leaves_the_state(blame: Blame) -> None:
    """A failure on our side leaves InitWait and ends the worker; the policy starts another."""
    attaching = Lifecycle(
        backend=X.INIT_WAIT,
        frontend=X.INITIALISED,
        online=True,
        taken_up=True,
        worker=WorkerPhase.ATTACHING,
    )

    after, actions = run(attaching, t.WorkerFailed(blame), t.WorkerExited(Hold.BACKOFF))

    assert [t.StopWorker()] == actions
    assert after.backend is X.INIT_WAIT
    assert after.writing is None


def test_s14_connected_is_told_again_after_a_worker_was_replaced() -> None:
    """The hook may be called more than once: each successor hears of the connection."""
    _, actions = run(
        SERVING,
        t.WorkerExited(Hold.NONE),
        t.WorkerHello(),
        t.WorkerInitialised(),
        t.WorkerAttached(),
    )

    assert [
        t.StartWorker(),
        t.AskInit(),
        t.AskInitialise(resume=True),
        t.PublishNodes(),
        t.AskConnected(),
    ] == actions


@pytest.mark.parametrize("frontend", [X.CLOSING, X.CLOSED])
def test_s15_frontend_that_closes_is_detached_once_and_followed(frontend: X) -> None:
    """The disconnect hook runs once, then the backend follows into the same state."""
    after, actions = run(
        SERVING, t.FrontendRead(frontend), t.FrontendRead(frontend), t.WorkerDisconnected()
    )

    assert [t.AskDisconnect(), t.WriteState(frontend)] == actions
    assert after.backend is X.CONNECTED
    assert after.writing is frontend


def test_s15_frontend_closing_then_closed_is_followed_without_a_second_disconnect() -> None:
    """Closing and Closed one after the other detach once."""
    _, actions = run(
        SERVING,
        t.FrontendRead(X.CLOSING),
        t.WorkerDisconnected(),
        t.StateWritten(),
        t.FrontendRead(X.CLOSED),
        t.StateWritten(),
    )

    assert [t.AskDisconnect(), t.WriteState(X.CLOSING), t.WriteState(X.CLOSED)] == actions


def test_s16_reset_brings_a_closed_device_back_with_the_same_worker() -> None:
    """Backend Closed, frontend Initialising again: initialised anew for the next instance."""
    closed = replace(SERVING, backend=X.CLOSED, frontend=X.CLOSED, worker=WorkerPhase.IDLE)

    after, actions = run(
        closed,
        t.FrontendRead(X.INITIALISING),
        t.StateWritten(),
        t.WorkerInitialised(),
        t.StateWritten(),
        t.FrontendRead(X.INITIALISED),
    )

    assert [
        t.WriteState(X.INITIALISING),
        t.AskInit(),
        t.WriteState(X.INIT_WAIT, hotplug=True),
        t.AskInitialise(resume=False),
    ] == actions
    assert not after.frontend_was_connected


def test_s16_frontend_that_starts_anew_without_closing_is_closed_and_reset() -> None:
    """kexec: Initialising while Connected gives everything back, closes, and begins again."""
    _, actions = run(
        SERVING,
        t.FrontendRead(X.INITIALISING),
        t.WorkerDisconnected(),
        t.StateWritten(),
        t.StateWritten(),
    )

    assert [
        t.AskDisconnect(),
        t.WriteState(X.CLOSED),
        t.WriteState(X.INITIALISING),
        t.AskInit(),
    ] == actions


def test_lifecycle_frontend_that_offers_a_ring_anew_is_attached_afresh() -> None:
    """Connected, then Initialised again: the old ring is let go, the new one is not resumed."""
    _, actions = run(
        SERVING,
        t.FrontendRead(X.INITIALISED),
        t.WorkerDisconnected(),
        t.StateWritten(),
        t.WorkerInitialised(),
    )

    assert [
        t.AskDisconnect(),
        t.WriteState(X.INIT_WAIT, hotplug=True),
        t.AskInit(),
        t.AskInitialise(resume=False),
    ] == actions


def test_s17_dispatcher_from_every_situation_ends_and_never_starts_a_second_worker() -> None:
    """The rules reach a rest from every reachable combination, within ten of them."""
    holds = (Hold.NONE, Hold.GUEST, Hold.QUARANTINED)
    flags = list(itertools.product((False, True), repeat=4))
    for backend, frontend, worker, hold, chosen in itertools.product(
        X, X, WorkerPhase, holds, flags
    ):
        online, enabled, fault, was_connected = chosen
        now = Lifecycle(
            backend=backend,
            frontend=frontend,
            online=online,
            taken_up=True,
            enabled=enabled,
            worker=worker,
            hold=hold,
            fault=fault,
            frontend_was_connected=was_connected,
            greeted=True,
        )
        step = advance(now, t.FrontendRead(frontend))
        starts = [action for action in step.actions if isinstance(action, t.StartWorker)]
        writes = [action for action in step.actions if isinstance(action, t.WriteState)]

        assert len(step.rules) <= 10
        assert len(starts) <= (worker is WorkerPhase.ABSENT)
        assert len(writes) <= 1
        assert step.after.backend is backend


@pytest.mark.parametrize("phase", [phase for phase in WorkerPhase if phase.value != "stopping"])
@pytest.mark.parametrize(
    ("event", "legal"),
    [
        (t.WorkerHello(), WorkerPhase.STARTING),
        (t.WorkerInitialised(), WorkerPhase.INITIALISING),
        (t.WorkerAttached(), WorkerPhase.ATTACHING),
        (t.WorkerDisconnected(), WorkerPhase.DETACHING),
    ],
)
def test_lifecycle_answer_nobody_asked_for_is_illegal(
    phase: WorkerPhase, event: t.Event, legal: WorkerPhase
) -> None:
    """A worker that answers what it was not asked is not believed."""
    now = replace(SERVING, worker=phase)

    if phase is legal:
        assert advance(now, event).after.worker is not phase
    else:
        with pytest.raises(t.IllegalEventError, match=type(event).__name__):
            advance(now, event)


def test_lifecycle_exit_of_a_worker_that_is_not_there_is_illegal() -> None:
    """Nobody can die twice."""
    with pytest.raises(t.IllegalEventError):
        advance(replace(SERVING, worker=WorkerPhase.ABSENT), t.WorkerExited(Hold.NONE))


def test_lifecycle_failed_write_leaves_the_state_and_waits_for_news() -> None:
    """S4: a state that cannot be written is not believed, and not written again in a loop."""
    ready = Lifecycle(
        backend=X.INITIALISING,
        online=True,
        taken_up=True,
        worker=WorkerPhase.READY,
        writing=X.INIT_WAIT,
    )

    after, actions = run(ready, t.WriteFailed())
    _, later = run(after, t.BackendRead(X.INITIALISING, online=True))

    assert actions == []
    assert after.backend is X.INITIALISING
    assert [t.WriteState(X.INIT_WAIT, hotplug=True)] == later


def test_lifecycle_write_under_way_is_awaited_before_the_next() -> None:
    """A frontend that closes while Connected is being written is followed afterwards."""
    writing = replace(SERVING, backend=X.INIT_WAIT, writing=X.CONNECTED, greeted=False)

    after, during = run(writing, t.FrontendRead(X.CLOSED))
    _, afterwards = run(after, t.StateWritten())

    assert during == []
    assert [t.AskDisconnect()] == afterwards


def test_lifecycle_guest_fault_closes_in_order_and_waits_for_the_guest() -> None:
    """Closing, then Closed without waiting for the frontend; the next instance starts clean."""
    closed, actions = run(
        SERVING,
        t.WorkerFailed(Blame.GUEST),
        t.StateWritten(),
        t.WorkerExited(Hold.NONE),
        t.StateWritten(),
    )
    reset, later = run(closed, t.FrontendRead(X.INITIALISING), t.StateWritten())

    assert [t.StopWorker(), t.WriteState(X.CLOSING), t.WriteState(X.CLOSED)] == actions
    assert closed.hold is Hold.GUEST
    assert [t.WriteState(X.INITIALISING), t.StartWorker()] == later
    assert not reset.fault


def test_lifecycle_unplug_by_toolstack_serves_until_the_frontend_closed() -> None:
    """online=0 and state Closing: a busy frontend is still served, then followed to Closed."""
    unplugged, first = run(SERVING, t.BackendRead(X.CLOSING, online=False))
    _, then = run(
        unplugged,
        t.FrontendRead(X.CLOSING),
        t.WorkerDisconnected(),
        t.FrontendRead(X.CLOSED),
        t.StateWritten(),
    )

    assert first == []
    assert [t.AskDisconnect(), t.WriteState(X.CLOSED), t.StopWorker()] == then


def test_lifecycle_unplug_without_a_frontend_closes_at_once() -> None:
    """Nobody is connected, so nobody is waited for."""
    waiting = Lifecycle(
        backend=X.INIT_WAIT,
        frontend=X.INITIALISING,
        online=True,
        taken_up=True,
        worker=WorkerPhase.READY,
    )

    _, actions = run(waiting, t.BackendRead(X.CLOSING, online=False), t.StateWritten())

    assert [t.WriteState(X.CLOSED), t.StopWorker()] == actions


def test_lifecycle_worker_death_while_unplugging_is_replaced_for_a_busy_frontend() -> None:
    """A mounted disk that is being unplugged still needs its last writes served."""
    closing = replace(SERVING, backend=X.CLOSING, online=False)

    _, actions = run(closing, t.WorkerExited(Hold.NONE), t.WorkerHello(), t.WorkerInitialised())

    assert [t.StartWorker(), t.AskInit(), t.AskInitialise(resume=True)] == actions


def test_lifecycle_quarantined_device_stays_down_until_released() -> None:
    """No start while quarantined; the operator's release starts a successor on the live ring."""
    held, before = run(SERVING, t.WorkerExited(Hold.QUARANTINED))
    _, after = run(held, t.Released())

    assert before == []
    assert [t.StartWorker()] == after


def test_lifecycle_quarantined_device_that_is_unplugged_is_closed() -> None:
    """The toolstack does not wait in vain for a device nobody may serve."""
    held, _ = run(SERVING, t.WorkerExited(Hold.QUARANTINED))

    _, actions = run(held, t.BackendRead(X.CLOSING, online=False))

    assert [t.WriteState(X.CLOSED)] == actions


def test_s19_gone_device_is_forgotten_when_its_worker_is_dead() -> None:
    """Nothing is written; the worker ends; only then is the device forgotten."""
    after, actions = run(SERVING, t.Gone(), t.WorkerExited(Hold.NONE))

    assert [t.StopWorker(), t.Forget()] == actions
    assert not after.taken_up


def test_lifecycle_directory_made_anew_is_a_new_life() -> None:
    """Initialising in a directory we had Connected: the old device goes, whatever it was doing."""
    after, actions = run(SERVING, t.BackendRead(X.INITIALISING, online=True))

    assert [t.StopWorker()] == actions
    assert after.gone


def test_lifecycle_vanished_frontend_counts_as_closed() -> None:
    """The frontend directory is gone: give back, then Closed."""
    _, actions = run(SERVING, t.FrontendRead(X.UNKNOWN), t.WorkerDisconnected())

    assert [t.AskDisconnect(), t.WriteState(X.CLOSED)] == actions


def test_lifecycle_disabled_type_is_closed_in_order_then_forgotten() -> None:
    """A type switched off: Closing, served until the frontend closes, Closed, ended, forgotten."""
    _, actions = run(
        SERVING,
        t.TypeEnabled(enabled=False),
        t.StateWritten(),
        t.FrontendRead(X.CLOSED),
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


def test_lifecycle_replaced_worker_hands_the_ring_to_its_successor() -> None:
    """`restart`: the worker ends in order, the next one resumes; states do not move."""
    after, actions = run(SERVING, t.ReplaceWorker(), t.WorkerExited(Hold.NONE))

    assert [t.StopWorker(), t.StartWorker()] == actions
    assert after.backend is X.CONNECTED


def test_lifecycle_connected_device_found_at_start_is_resumed() -> None:
    """What an earlier supervisor left Connected is taken up at its live ring."""
    _, actions = run(
        NEW,
        t.TakeUp(X.CONNECTED, X.CONNECTED, online=True),
        t.WorkerHello(),
        t.WorkerInitialised(),
    )

    assert [t.StartWorker(), t.AskInit(), t.AskInitialise(resume=True)] == actions


def test_lifecycle_table_in_the_documentation_is_the_one_in_force() -> None:
    """docs/lifecycle.md contains the generated table."""
    document = ROOT / "docs" / "lifecycle.md"

    assert markdown() in document.read_text()


def test_lifecycle_forced_closed_while_serving_lets_the_ring_go() -> None:
    """A toolstack that gave up waiting writes Closed itself: give back, then end."""
    _, actions = run(SERVING, t.BackendRead(X.CLOSED, online=False), t.WorkerDisconnected())

    assert [t.AskDisconnect(), t.StopWorker()] == actions


@pytest.mark.parametrize("hold", [Hold.NONE, Hold.BACKOFF, Hold.QUARANTINED])
def test_lifecycle_guest_at_fault_is_closed_whatever_the_policy_holds(hold: Hold) -> None:
    """The orderly close does not wait for a back-off to end."""
    _, actions = run(SERVING, t.WorkerFailed(Blame.GUEST), t.StateWritten(), t.WorkerExited(hold))

    assert [t.StopWorker(), t.WriteState(X.CLOSING), t.WriteState(X.CLOSED)] == actions
