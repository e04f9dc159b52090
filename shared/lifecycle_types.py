# SPDX-License-Identifier: MIT
"""The vocabulary of the life cycle: what is known about a device, events, and actions.

Only data. The rules that connect them are in `shared.lifecycle_rules`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from shared.errors import Blame
from shared.traits import USUAL, Traits
from shared.xenbus import XenbusState


class WorkerPhase(enum.Enum):
    """The phase of a device's worker, as far as the supervisor knows."""

    ABSENT = "absent"
    """No process: none was started, or the last one is known to be dead and was reaped."""
    ADOPTING = "adopting"
    """A process of an earlier supervisor, which was asked what it is doing and has not answered."""
    STARTING = "starting"
    """The fork server was asked to start it; no Hello yet."""
    IDLE = "idle"
    """It said Hello, or gave back everything of the guest; it was asked nothing since."""
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
    """It was told to end, or killed; it is not known to be dead yet."""


class Hold(enum.Enum):
    """Why no worker is started although the device needs one."""

    NONE = ""
    BACKOFF = "backoff"
    BUDGET = "budget"
    """The workers of this guest, or of the host, restarted too often: it waits for its turn."""
    QUARANTINED = "quarantined"
    CONFIG = "config"
    """The operator must change something: parameters, configuration, `restart`."""
    GUEST = "guest"
    """The frontend broke the protocol; it must close and connect again (S16)."""


class HotplugStatus(enum.Enum):
    """What `hotplug-status` says, where a script writes it."""

    WAITING = "waiting"
    """Nothing yet; also any word that is none of the others."""
    CONNECTED = "connected"
    ERROR = "error"


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
    """The backend directory was removed, or made again, or the domain is dead: the device only has
    to be forgotten."""
    enabled: bool = True
    """The type is (still) enabled in the configuration."""
    worker: WorkerPhase = WorkerPhase.ABSENT
    hold: Hold = Hold.NONE
    writing: XenbusState | None = None
    """A state on its way into xenstore; `backend` follows once the write has succeeded (S4)."""
    write_blocked: bool = False
    """The last write failed; nothing is written until something else happens."""
    frontend_was_connected: bool = False
    """The frontend was Connected in this connection: an earlier state means that it restarted."""
    greeted: bool = False
    """The `connected` hook was called in this connection (S14)."""
    fault: bool = False
    """The frontend broke the protocol: close in an orderly way, whatever its state is."""
    traits: Traits = USUAL
    """How this device differs from others."""
    hotplug: HotplugStatus = HotplugStatus.WAITING
    renewed: bool = False
    """The ring was taken up in the reconfiguration that is going on."""

    @property
    def frontend_counts_as(self) -> XenbusState:
        """The frontend's state as the rules see it.

        One that is ignored is always ready, and follows a toolstack that closes the backend or
        takes it offline: there is nobody who could say otherwise.
        """
        if not self.traits.ignore_frontend_state:
            return self.frontend
        starting = self.backend in (XenbusState.INITIALISING, XenbusState.INIT_WAIT)
        closing = self.backend in (XenbusState.CLOSING, XenbusState.CLOSED) or not self.online
        return XenbusState.CLOSED if closing and not starting else XenbusState.CONNECTED

    @property
    def hotplug_done(self) -> bool:
        """Whether no hotplug script has to be waited for."""
        return self.traits.hotplug != "script" or self.hotplug is HotplugStatus.CONNECTED

    @property
    def reconfiguring(self) -> bool:
        """Whether both ends are in Reconfiguring: the frontend waits for Reconfigured."""
        return (
            self.traits.reconfigures
            and self.backend is XenbusState.RECONFIGURING
            and self.frontend_counts_as in (XenbusState.RECONFIGURING, XenbusState.RECONFIGURED)
        )


# --- events: what happened -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TakeUp:
    """A device was found by the scan or a watch (S11): what its two directories say."""

    backend: XenbusState
    frontend: XenbusState
    online: bool


@dataclass(frozen=True, slots=True)
class BackendRead:
    """The backend directory was read again after a watch event (S9)."""

    state: XenbusState
    online: bool
    hotplug: HotplugStatus = HotplugStatus.WAITING
    """Read only where a script writes it."""


@dataclass(frozen=True, slots=True)
class FrontendRead:
    """The frontend's `state` was read again after a watch event (S10)."""

    state: XenbusState


@dataclass(frozen=True, slots=True)
class Gone:
    """The backend directory was removed or the domain is dead (S8, S19)."""


@dataclass(frozen=True, slots=True)
class TypeEnabled:
    """The configuration enables (or disables) the type."""

    enabled: bool


@dataclass(frozen=True, slots=True)
class WorkerHello:
    """The worker is up and its handles are open."""


@dataclass(frozen=True, slots=True)
class WorkerPresent:
    """The worker of an earlier supervisor says what it is doing: IDLE, READY or SERVING."""

    phase: WorkerPhase
    greeted: bool
    """Its `connected` hook was called since its last `init`."""


@dataclass(frozen=True, slots=True)
class WorkerInitialised:
    """`init` worked."""


@dataclass(frozen=True, slots=True)
class WorkerAttached:
    """`initialise` worked."""


@dataclass(frozen=True, slots=True)
class WorkerDisconnected:
    """`disconnect` is done."""


@dataclass(frozen=True, slots=True)
class WorkerFailed:
    """A hook or the ring failed; the process still lives."""

    blame: Blame


@dataclass(frozen=True, slots=True)
class WorkerExited:
    """The process is dead and reaped. `hold` is what the policy says about a successor."""

    hold: Hold


@dataclass(frozen=True, slots=True)
class Released:
    """The hold ended: back-off over, operator's `restart`, parameters changed."""


@dataclass(frozen=True, slots=True)
class ReplaceWorker:
    """The operator asks for a fresh worker."""


@dataclass(frozen=True, slots=True)
class StateWritten:
    """The state on its way is in xenstore (S4)."""


@dataclass(frozen=True, slots=True)
class WriteFailed:
    """The state could not be written and stays as it was (S4)."""


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
    """Fork the next generation; only after the last one is known to be dead."""


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
    """Write `state`, and the nodes that the worker wants to publish, in one transaction.

    Answered by `StateWritten` or `WriteFailed`. `hotplug` adds `hotplug-status = connected`.
    """

    state: XenbusState
    hotplug: bool = False


@dataclass(frozen=True, slots=True)
class PublishNodes:
    """Write the nodes that the worker wants to publish, without a new state (re-attachment)."""


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop the device: remove its watch and its registry entry. Its directories are not ours."""


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

    An illegal event from a worker means that the worker is broken or taken over: kill it.
    """


class WrongInitialStateError(IllegalEventError):
    """A device was found in a state that we cannot take it up from (S11)."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one event led to."""

    before: Lifecycle
    after: Lifecycle
    actions: tuple[Action, ...] = ()
    rules: tuple[str, ...] = field(default=())
    """Names of the rules that fired, in order: for the debug log and the tests."""
