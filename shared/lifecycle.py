# SPDX-License-Identifier: MIT
"""The life cycle of a device: a pure state machine whose transitions are one printable table.

Rule 1: everything that decides what happens to a device next is in this file and in the table of
`shared.lifecycle_rules`. The supervisor only turns what happens into events, and carries out the
actions.

Rule 2: nothing here does I/O, reads a clock or logs.

Theory of operation. Four parties decide about a device: the toolstack (`online`, a `state` of
Closing forced into our directory, removal of the directory), the frontend (`state` in its own
directory), the worker (its phase) and the supervisor (the backend `state`). Frontends skip states,
watch events are coalesced, and workers die at any moment. So nothing is edge-triggered: `advance()`
first notes what an event says (`_note`). Then it applies the first rule of `RULES` that matches,
and repeats this until none does. A rule names its conditions and its effect; its position in the
table is its priority. `python -m shared.lifecycle_table` prints the table.

Invariants, each held by a test that walks the whole space:

- `StartWorker` is emitted only while the worker is ABSENT: never two workers on one device.
- At most one state is on its way into xenstore (`writing`). `backend` changes only once that write
  is known to have worked, or once the toolstack was seen to have changed the node.
- Every event ends after finitely many rules.
- An illegal event raises and changes nothing.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Final

from shared import lifecycle_types as t
from shared.errors import Blame
from shared.lifecycle_rules import RULES
from shared.lifecycle_sets import LIVE, NO_PROCESS, RECONFIGURATION, RUNNING
from shared.lifecycle_types import Hold, Lifecycle, Step
from shared.lifecycle_types import WorkerPhase as W
from shared.xenbus import XenbusState as X

TAKE_UP_STATES: Final = frozenset({X.INITIALISING, X.INIT_WAIT, X.CONNECTED, X.CLOSING, X.CLOSED})
"""A toolstack leaves a new device in Initialising (S11). An earlier supervisor leaves the others:
the rings of its devices are live, and we take them up again."""

STEPS_KEPT: Final = 4096
"""How many steps are cached. Devices take the same few paths; a guest can at most evict entries."""


@functools.lru_cache(maxsize=STEPS_KEPT)
def advance(now: Lifecycle, event: t.Event) -> Step:
    """Apply one event and every rule that then matches (S17).

    Raises:
        WrongInitialStateError: `TakeUp` of a device that is in no state to be taken up.
        IllegalEventError: the event makes no sense now.
    """
    after, first = _note(now, event)
    actions = list(first)
    fired: list[str] = []
    while (rule := next((row for row in RULES if row.matches(after)), None)) is not None:
        after, action = rule.apply(after)
        actions.append(action)
        fired.append(rule.name)
    return Step(now, after, tuple(actions), tuple(fired))


def _note(now: Lifecycle, event: t.Event) -> tuple[Lifecycle, tuple[t.Action, ...]]:
    """Note what the event says; decide nothing that a rule could decide."""
    changed = dataclasses.replace
    if isinstance(event, t.TakeUp):
        return _take_up(now, event), ()
    if not now.taken_up:
        raise _illegal(now, event)
    match event:
        case t.StateWritten():
            return _state_written(now, event), ()
        case t.WriteFailed():
            if now.writing is None:
                raise _illegal(now, event)
            return changed(now, writing=None, write_blocked=True), ()
    now = changed(now, write_blocked=False)
    match event:
        case t.BackendRead():
            return _backend_read(now, event), ()
        case t.FrontendRead(state):
            return _with_frontend(now, state), ()
        case t.Gone():
            return changed(now, gone=True), ()
        case t.TypeEnabled(enabled):
            return changed(now, enabled=enabled), ()
        case t.Released():
            return changed(now, hold=Hold.NONE), ()
        case t.ReplaceWorker():
            released = changed(now, hold=Hold.NONE)
            return _ended(released) if now.worker not in NO_PROCESS else (released, ())
    return _worker_event(now, event)


def _illegal(now: Lifecycle, event: t.Event) -> t.IllegalEventError:
    """The error, with what the reader of a log needs."""
    return t.IllegalEventError(
        f"{type(event).__name__}: not possible: backend {now.backend}, frontend {now.frontend},"
        f" worker {now.worker.value}"
    )


def _take_up(now: Lifecycle, event: t.TakeUp) -> Lifecycle:
    if now.taken_up or now.gone:
        raise _illegal(now, event)
    known = TAKE_UP_STATES | RECONFIGURATION if now.traits.reconfigures else TAKE_UP_STATES
    if event.backend not in known:
        raise t.WrongInitialStateError(f"initial backend state is wrong: {event.backend}")
    started = dataclasses.replace(now, taken_up=True, backend=event.backend, online=event.online)
    return _with_frontend(started, event.frontend)


def _with_frontend(now: Lifecycle, state: X) -> Lifecycle:
    # Connected on both sides marks a connection; later states of the frontend are relative to it.
    # Only a state that we write (`_state_written`) begins the next connection.
    after = dataclasses.replace(now, frontend=state)
    # A frontend that changes its configuration was Connected before, seen or not.
    at_work = RUNNING if now.traits.reconfigures else {X.CONNECTED}
    connected = after.frontend_counts_as in at_work and now.backend in LIVE
    return dataclasses.replace(
        after, frontend_was_connected=now.frontend_was_connected or connected
    )


def _backend_read(now: Lifecycle, event: t.BackendRead) -> Lifecycle:
    now = dataclasses.replace(now, online=event.online, hotplug=event.hotplug)
    if now.writing is not None or event.state is now.backend:
        return now
    if event.state in (X.CLOSING, X.CLOSED):
        return dataclasses.replace(now, backend=event.state)
    asked = event.state is X.RECONFIGURING and now.backend in (X.CONNECTED, X.RECONFIGURED)
    if asked and now.traits.reconfigures:
        # The toolstack asks for it (vscsi); the frontend answers by going there too.
        return dataclasses.replace(now, backend=event.state, renewed=False)
    if event.state is X.INITIALISING:
        # Only a toolstack writes that, into a directory it has just made. So the directory we knew
        # is gone, and its removal was coalesced with the creation of this one.
        return dataclasses.replace(now, gone=True)
    return now


def _state_written(now: Lifecycle, event: t.StateWritten) -> Lifecycle:
    if now.writing is None:
        raise _illegal(now, event)
    written = dataclasses.replace(now, backend=now.writing, writing=None, write_blocked=False)
    if written.backend in RECONFIGURATION:
        return written
    written = dataclasses.replace(written, renewed=False)
    if written.backend is X.CONNECTED:
        return _with_frontend(written, written.frontend)
    if written.backend is X.CLOSING:
        return written
    changes: dict[str, Any] = {"frontend_was_connected": False, "greeted": False}
    if written.backend is X.INITIALISING:
        # A new connection begins. `init` runs again, and the fault of the last frontend is
        # forgotten.
        changes["fault"] = False
        if written.worker is W.READY:
            changes["worker"] = W.IDLE
        if written.hold is Hold.GUEST:
            changes["hold"] = Hold.NONE
    return dataclasses.replace(written, **changes)


_ANSWERS: Final[dict[type[Any], tuple[W, W]]] = {
    t.WorkerHello: (W.STARTING, W.IDLE),
    t.WorkerInitialised: (W.INITIALISING, W.READY),
    t.WorkerAttached: (W.ATTACHING, W.SERVING),
    t.WorkerDisconnected: (W.DETACHING, W.IDLE),
}
"""Answers of a worker: the phases in which each may come, and the phase after it."""


def _worker_event(now: Lifecycle, event: t.Event) -> tuple[Lifecycle, tuple[t.Action, ...]]:
    if now.worker is W.ABSENT:
        raise _illegal(now, event)
    if isinstance(event, t.WorkerExited):
        fault = now.fault or event.hold is Hold.GUEST
        hold = Hold.GUEST if fault and event.hold is Hold.NONE else event.hold
        after = dataclasses.replace(now, worker=W.ABSENT, hold=hold, fault=fault, greeted=False)
        return after, ()
    if now.worker is W.STOPPING:
        return now, ()  # sent before the worker heard that it must end
    if isinstance(event, t.WorkerFailed):
        # The process ends whatever failed, so that a successor starts from a clean slate.
        return _ended(dataclasses.replace(now, fault=now.fault or event.blame is Blame.GUEST))
    if isinstance(event, t.WorkerPresent):
        return _present(now, event)
    expected, following = _ANSWERS[type(event)]
    if now.worker is not expected:
        raise _illegal(now, event)
    after = dataclasses.replace(now, worker=following)
    if following is W.SERVING:
        after = dataclasses.replace(after, greeted=False)
        if now.backend is X.CONNECTED:
            return after, (t.PublishNodes(),)
    return after, ()


def _present(now: Lifecycle, event: t.WorkerPresent) -> tuple[Lifecycle, tuple[t.Action, ...]]:
    if now.worker is not W.ADOPTING:
        raise _illegal(now, event)
    phase = event.phase
    if phase is W.READY and now.backend is X.INITIALISING:
        phase = W.IDLE  # it may have been initialised for an earlier connection
    after = dataclasses.replace(
        now,
        worker=phase,
        greeted=event.greeted and phase is W.SERVING,
        frontend_was_connected=now.frontend_was_connected or event.greeted,
    )
    if phase is W.SERVING and now.backend is X.CONNECTED:
        return after, (t.PublishNodes(),)
    return after, ()


def _ended(now: Lifecycle) -> tuple[Lifecycle, tuple[t.Action, ...]]:
    return dataclasses.replace(now, worker=W.STOPPING), (t.StopWorker(),)
