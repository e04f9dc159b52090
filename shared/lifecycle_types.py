# SPDX-License-Identifier: MIT
"""The vocabulary of a device's life cycle: what is known, what happens, what is to be done.

Only data. The rules that connect them are in `shared.lifecycle`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from shared.errors import Blame
from shared.xenbus import XenbusState


class WorkerPhase(enum.Enum):
    """How far the worker of a device is, as far as the supervisor knows."""

    ABSENT = "absent"
    """No process: none was started, or the last one is known dead and reaped."""
    ADOPTING = "adopting"
    """A process of an earlier supervisor; what it is doing was asked and not answered yet."""
    STARTING = "starting"
    """Asked of the fork server; no Hello yet."""
    IDLE = "idle"
    """Said Hello, or gave everything of the guest's back; nothing asked since."""
    INITIALISING = "initialising"
    """`Init` was asked."""
    READY = "ready"
    """`Initialised` was answered; no ring yet."""
    ATTACHING = "attaching"
    """`Initialise` was asked."""
    SERVING = "serving"
    """`Attached` was answered: the ring runs."""
    DETACHING = "detaching"
    """`Disconnect` was asked."""
    STOPPING = "stopping"
    """Asked to exit or killed; not known dead yet."""


class Hold(enum.Enum):
    """Why no worker is started although the device wants one."""

    NONE = ""
    BACKOFF = "backoff"
    BUDGET = "budget"
    """Too many restarts of this guest's workers, or of the whole host's: waits for its turn."""
    QUARANTINED = "quarantined"
    CONFIG = "config"
    """The operator must change something: parameters, configuration, `restart`."""
    GUEST = "guest"
    """The frontend broke the protocol; it must close and start anew (S16)."""


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """Everything the rules look at. Replaced, never changed."""

    backend: XenbusState = XenbusState.UNKNOWN
    """The `state` node of the backend directory, as last read or successfully written."""
    frontend: XenbusState = XenbusState.UNKNOWN
    online: bool = False
    taken_up: bool = False
    """Set-up (S11) was done."""
    gone: bool = False
    """Backend directory removed, domain dead, or replaced by a new life: only to be forgotten."""
    enabled: bool = True
    """The type is (still) enabled in the configuration."""
    worker: WorkerPhase = WorkerPhase.ABSENT
    hold: Hold = Hold.NONE
    writing: XenbusState | None = None
    """A state on its way into xenstore; `backend` follows when the write succeeded (S4)."""
    write_blocked: bool = False
    """The last write failed; nothing is written again before something else happened."""
    frontend_was_connected: bool = False
    """The frontend was Connected in the present connection; going back means it started anew."""
    greeted: bool = False
    """The `connected` hook was asked in the present connection (S14)."""
    ignore_frontend_state: bool = False
    """Type flag (S13, S24): do not wait for the frontend before `initialise`."""
    fault: bool = False
    """The frontend broke the protocol: close, in order, whatever it says."""


# --- events: what happened -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TakeUp:
    """Found by the scan or a watch (S11): what the two directories say."""

    backend: XenbusState
    frontend: XenbusState
    online: bool


@dataclass(frozen=True, slots=True)
class BackendRead:
    """Backend directory read again after a watch event (S9)."""

    state: XenbusState
    online: bool


@dataclass(frozen=True, slots=True)
class FrontendRead:
    """Frontend `state` read again after a watch event (S10)."""

    state: XenbusState


@dataclass(frozen=True, slots=True)
class Gone:
    """Backend directory removed or domain dead (S8, S19)."""


@dataclass(frozen=True, slots=True)
class TypeEnabled:
    """The configuration enables (or disables) the type."""

    enabled: bool


@dataclass(frozen=True, slots=True)
class WorkerHello:
    """The worker is up, its handles open."""


@dataclass(frozen=True, slots=True)
class WorkerPresent:
    """An earlier supervisor's worker says what it is doing: IDLE, READY or SERVING."""

    phase: WorkerPhase
    greeted: bool
    """It was asked the `connected` hook since its last `init`."""


@dataclass(frozen=True, slots=True)
class WorkerInitialised:
    """`init` worked."""


@dataclass(frozen=True, slots=True)
class WorkerAttached:
    """`initialise` worked."""


@dataclass(frozen=True, slots=True)
class WorkerDisconnected:
    """`disconnect` done."""


@dataclass(frozen=True, slots=True)
class WorkerFailed:
    """A hook or the ring failed; the process is still there."""

    blame: Blame


@dataclass(frozen=True, slots=True)
class WorkerExited:
    """The process is known dead and reaped. `hold` is what the policy says about a successor."""

    hold: Hold


@dataclass(frozen=True, slots=True)
class Released:
    """The hold ended: back-off over, operator's `restart`, parameters changed."""


@dataclass(frozen=True, slots=True)
class ReplaceWorker:
    """The operator asks for a fresh worker."""


@dataclass(frozen=True, slots=True)
class StateWritten:
    """The state under way is in xenstore (S4)."""


@dataclass(frozen=True, slots=True)
class WriteFailed:
    """It could not be written; the state stays as it was (S4)."""


Event = (
    TakeUp
    | BackendRead
    | FrontendRead
    | Gone
    | TypeEnabled
    | WorkerHello
    | WorkerPresent
    | WorkerInitialised
    | WorkerAttached
    | WorkerDisconnected
    | WorkerFailed
    | WorkerExited
    | Released
    | ReplaceWorker
    | StateWritten
    | WriteFailed
)


# --- actions: what is to be done -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Fork the next generation. Only ever after the last one is known dead."""


@dataclass(frozen=True, slots=True)
class AskInit:
    """Send `Init` with a snapshot of the backend directory."""


@dataclass(frozen=True, slots=True)
class AskInitialise:
    """Send `Initialise` with snapshots of both directories."""

    resume: bool


@dataclass(frozen=True, slots=True)
class AskConnected:
    """Send `Connected`."""


@dataclass(frozen=True, slots=True)
class AskDisconnect:
    """Send `Disconnect`."""


@dataclass(frozen=True, slots=True)
class StopWorker:
    """End the worker: `Stop` and a deadline, or SIGKILL at once."""

    kill: bool = False


@dataclass(frozen=True, slots=True)
class WriteState:
    """Write `state`, with what the worker gave to publish, in one transaction.

    Answered by `StateWritten` or `WriteFailed`. `hotplug` adds `hotplug-status = connected`.
    """

    state: XenbusState
    hotplug: bool = False


@dataclass(frozen=True, slots=True)
class PublishNodes:
    """Write what the worker gave to publish without a change of state (re-attachment)."""


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop the device: unwatch, remove from the registry. Its directories are not ours."""


Action = (
    StartWorker
    | AskInit
    | AskInitialise
    | AskConnected
    | AskDisconnect
    | StopWorker
    | WriteState
    | PublishNodes
    | Forget
)


class IllegalEventError(Exception):
    """The event makes no sense in this situation; the life cycle stays as it was.

    From a worker it means that the worker is broken or taken over: kill it.
    """


class WrongInitialStateError(IllegalEventError):
    """A device was found in a state nobody can take it up from (S11)."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one event led to."""

    before: Lifecycle
    after: Lifecycle
    actions: tuple[Action, ...] = ()
    rules: tuple[str, ...] = field(default=())
    """Names of the rules that fired, in order: for the debug log and the tests."""
