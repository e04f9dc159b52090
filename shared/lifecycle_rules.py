# SPDX-License-Identifier: MIT
"""The transition table of the life cycle: each row is a rule, and the first match wins.

This module has only the data and the matching of one row; `shared.lifecycle` runs the table and
`shared.lifecycle_table` prints it. The order of the rows is their priority: rules that let go of a
guest's memory come before rules that tell the guest so, and both come before rules that start
anything.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final

from shared import lifecycle_types as t
from shared.lifecycle_types import Hold, Lifecycle
from shared.lifecycle_types import WorkerPhase as W
from shared.xenbus import XenbusState as X

_LIVE: Final = frozenset({X.CONNECTED, X.CLOSING})
"""States in which a ring may be in use. A device in use needs its ring in Closing too."""
_OPEN: Final = frozenset({X.INITIALISING, X.INIT_WAIT, X.CONNECTED})
_FRONTEND_READY: Final = frozenset({X.INITIALISED, X.CONNECTED})
_FRONTEND_ABSENT: Final = frozenset({X.UNKNOWN, X.INVALID})
"""The frontend's directory is gone or its state is invalid: there is nobody to serve."""
_FRONTEND_CLOSED: Final = frozenset({X.CLOSING, X.CLOSED})
_ATTACHED: Final = frozenset({W.ADOPTING, W.ATTACHING, W.SERVING, W.DETACHING, W.STOPPING})
"""Phases in which the worker may still hold pages or ports of the guest."""
_DETACHED: Final = frozenset(W) - _ATTACHED
_ABSENT: Final = frozenset({W.ABSENT})
_SERVING: Final = frozenset({W.SERVING})
NO_PROCESS: Final = frozenset({W.ABSENT, W.STOPPING})
"""Phases in which no worker obeys orders."""
_ALIVE: Final = frozenset(W) - NO_PROCESS
_STARTING: Final = frozenset({X.INITIALISING, X.INIT_WAIT})


@dataclass(frozen=True, slots=True)
class Rule:
    """One row. All conditions must hold (None: any value). `writes` implies `WriteState`."""

    name: str
    why: str
    gone: bool = False
    enabled: bool | None = None
    fault: bool | None = None
    online: bool | None = None
    backend: frozenset[X] | None = None
    frontend: frozenset[X] | None = None
    worker: frozenset[W] | None = None
    hold: frozenset[Hold] | None = None
    frontend_was_connected: bool | None = None
    greeted: bool | None = None
    ignore_frontend_state: bool | None = None
    # effect
    action: t.Action | None = None
    to_worker: W | None = None
    writes: X | None = None

    def matches(self, now: Lifecycle) -> bool:
        """Whether the row applies."""
        if not now.taken_up or self.gone != now.gone:
            return False
        if not now.gone and now.writing is not None:
            return False
        if self.writes is not None and now.write_blocked:
            return False
        return (
            (self.enabled is None or self.enabled == now.enabled)
            and (self.fault is None or self.fault == now.fault)
            and (self.online is None or self.online == now.online)
            and (self.backend is None or now.backend in self.backend)
            and (self.frontend is None or now.frontend in self.frontend)
            and (self.worker is None or now.worker in self.worker)
            and (self.hold is None or now.hold in self.hold)
            and self.frontend_was_connected in (None, now.frontend_was_connected)
            and self.greeted in (None, now.greeted)
            and self.ignore_frontend_state in (None, now.ignore_frontend_state)
        )

    def apply(self, now: Lifecycle) -> tuple[Lifecycle, t.Action]:
        """The situation after the row, and the action to carry out."""
        if self.writes is not None:
            hotplug = self.writes is X.INIT_WAIT
            after = dataclasses.replace(now, writing=self.writes)
            return after, t.WriteState(self.writes, hotplug)
        assert self.action is not None
        changes: dict[str, Any] = {}
        if self.to_worker is not None:
            changes["worker"] = self.to_worker
        if isinstance(self.action, t.AskConnected):
            changes["greeted"] = True
        if isinstance(self.action, t.Forget):
            changes["taken_up"] = False
        return dataclasses.replace(now, **changes), self.action


RULES: Final = (
    # --- the device is gone
    Rule(
        "forget",
        "directory removed or domain dead, and no process left",
        gone=True,
        worker=_ABSENT,
        action=t.Forget(),
    ),
    Rule(
        "stop-gone",
        "nothing is written for a device that is gone; its worker ends",
        gone=True,
        worker=_ALIVE,
        action=t.StopWorker(),
        to_worker=W.STOPPING,
    ),
    Rule(
        "stop-stranded",
        "the device was removed and made again while the worker had no supervisor",
        backend=frozenset({X.INITIALISING}),
        worker=_SERVING,
        action=t.StopWorker(),
        to_worker=W.STOPPING,
    ),
    # --- closing (S15): the ring is let go first, then the state follows
    Rule(
        "detach-closed-frontend",
        "the frontend closes; its pages and ports are given back before it is told so",
        frontend=_FRONTEND_CLOSED,
        worker=_SERVING,
        action=t.AskDisconnect(),
        to_worker=W.DETACHING,
    ),
    Rule(
        "detach-vanished-frontend",
        "a frontend whose directory is gone counts as closed",
        backend=frozenset({X.CONNECTED, X.CLOSING, X.CLOSED}),
        frontend=_FRONTEND_ABSENT,
        worker=_SERVING,
        action=t.AskDisconnect(),
        to_worker=W.DETACHING,
    ),
    Rule(
        "detach-restarted-frontend",
        "back at Initialising without closing: kexec, crash, driver reload",
        backend=_LIVE,
        frontend=frozenset({X.INITIALISING}),
        worker=_SERVING,
        action=t.AskDisconnect(),
        to_worker=W.DETACHING,
    ),
    Rule(
        "detach-reconnecting-frontend",
        "was Connected and offers a ring again",
        backend=frozenset({X.CONNECTED}),
        frontend=frozenset({X.INIT_WAIT, X.INITIALISED}),
        worker=_SERVING,
        frontend_was_connected=True,
        action=t.AskDisconnect(),
        to_worker=W.DETACHING,
    ),
    Rule(
        "detach-forced",
        "the toolstack forced Closed while the ring ran",
        backend=frozenset({X.CLOSED}),
        worker=_SERVING,
        action=t.AskDisconnect(),
        to_worker=W.DETACHING,
    ),
    Rule(
        "close-faulty",
        "the frontend broke the protocol",
        fault=True,
        backend=_OPEN,
        writes=X.CLOSING,
    ),
    Rule(
        "closed-faulty",
        "we do not wait for a frontend at fault",
        fault=True,
        backend=frozenset({X.CLOSING}),
        worker=_DETACHED,
        writes=X.CLOSED,
    ),
    Rule(
        "follow-closing",
        "the backend follows the frontend (S15)",
        backend=_OPEN,
        frontend=frozenset({X.CLOSING}),
        worker=_DETACHED,
        writes=X.CLOSING,
    ),
    Rule(
        "follow-closed",
        "the backend follows the frontend (S15)",
        backend=_OPEN | {X.CLOSING},
        frontend=frozenset({X.CLOSED}),
        worker=_DETACHED,
        writes=X.CLOSED,
    ),
    Rule(
        "closed-vanished",
        "there is no frontend any more",
        backend=_LIVE,
        frontend=_FRONTEND_ABSENT,
        worker=_DETACHED,
        writes=X.CLOSED,
    ),
    Rule(
        "closed-restarted",
        "closed for a frontend that started again; the reset follows (S16)",
        backend=_LIVE,
        frontend=frozenset({X.INITIALISING}),
        worker=_DETACHED,
        writes=X.CLOSED,
    ),
    Rule(
        "wait-reconnecting",
        "the frontend offers a ring again and waits for Connected",
        backend=frozenset({X.CONNECTED}),
        frontend=frozenset({X.INIT_WAIT, X.INITIALISED}),
        worker=_DETACHED,
        frontend_was_connected=True,
        writes=X.INIT_WAIT,
    ),
    Rule(
        "closed-unserved",
        "the frontend still needs service, but no worker may be started",
        backend=frozenset({X.CLOSING}),
        worker=_ABSENT,
        hold=frozenset({Hold.QUARANTINED, Hold.CONFIG, Hold.GUEST}),
        writes=X.CLOSED,
    ),
    # --- the type was switched off: treated like an unplug by the toolstack
    Rule(
        "close-disabled",
        "the configuration switched the type off; the frontend is served until it closes",
        enabled=False,
        backend=_OPEN,
        writes=X.CLOSING,
    ),
    Rule(
        "stop-disabled",
        "switched off and closed",
        enabled=False,
        backend=frozenset({X.CLOSED}),
        worker=_ALIVE - _ATTACHED,
        action=t.StopWorker(),
        to_worker=W.STOPPING,
    ),
    Rule(
        "forget-disabled",
        "switched off, closed and no process left; the toolstack keeps the directory",
        enabled=False,
        backend=frozenset({X.CLOSED}),
        worker=_ABSENT,
        action=t.Forget(),
    ),
    # --- after Closed
    Rule(
        "stop-unplugged",
        "closed and not online: no frontend will connect any more",
        online=False,
        backend=frozenset({X.CLOSED}),
        worker=_ALIVE - _ATTACHED,
        action=t.StopWorker(),
        to_worker=W.STOPPING,
    ),
    Rule(
        "reset",
        "another frontend instance wants to connect (S16)",
        enabled=True,
        online=True,
        backend=frozenset({X.CLOSED}),
        frontend=frozenset({X.INITIALISING}),
        worker=frozenset({W.ABSENT, W.IDLE, W.READY}),
        hold=frozenset(Hold) - {Hold.QUARANTINED},
        writes=X.INITIALISING,
    ),
    # --- starting a worker, and giving it the ring
    Rule(
        "start",
        "a device that a frontend may connect to needs a worker",
        enabled=True,
        fault=False,
        online=True,
        backend=_STARTING,
        worker=_ABSENT,
        hold=frozenset({Hold.NONE}),
        action=t.StartWorker(),
        to_worker=W.STARTING,
    ),
    Rule(
        "start-successor",
        "the ring is live, and no worker serves it",
        fault=False,
        backend=_LIVE,
        frontend=_FRONTEND_READY,
        worker=_ABSENT,
        hold=frozenset({Hold.NONE}),
        action=t.StartWorker(),
        to_worker=W.STARTING,
    ),
    Rule(
        "init",
        "only when online (S12)",
        online=True,
        backend=_STARTING,
        worker=frozenset({W.IDLE}),
        action=t.AskInit(),
        to_worker=W.INITIALISING,
    ),
    Rule(
        "init-successor",
        "a successor opens what the device stands on before it takes the ring",
        backend=_LIVE,
        frontend=_FRONTEND_READY,
        worker=frozenset({W.IDLE}),
        action=t.AskInit(),
        to_worker=W.INITIALISING,
    ),
    Rule(
        "wait-frontend",
        "features are published, hotplug is done: now it is the frontend's turn (S12)",
        online=True,
        backend=frozenset({X.INITIALISING}),
        worker=frozenset({W.READY}),
        writes=X.INIT_WAIT,
    ),
    Rule(
        "attach",
        "the frontend offers its ring (S13)",
        backend=frozenset({X.INIT_WAIT}),
        frontend=_FRONTEND_READY,
        worker=frozenset({W.READY}),
        action=t.AskInitialise(resume=False),
        to_worker=W.ATTACHING,
    ),
    Rule(
        "attach-regardless",
        "the type ignores the frontend's state (S13)",
        backend=frozenset({X.INIT_WAIT}),
        worker=frozenset({W.READY}),
        ignore_frontend_state=True,
        action=t.AskInitialise(resume=False),
        to_worker=W.ATTACHING,
    ),
    Rule(
        "resume",
        "both ends are connected: the successor takes up the live ring",
        backend=_LIVE,
        frontend=_FRONTEND_READY,
        worker=frozenset({W.READY}),
        action=t.AskInitialise(resume=True),
        to_worker=W.ATTACHING,
    ),
    Rule(
        "connect",
        "the ring runs (S13)",
        backend=frozenset({X.INIT_WAIT}),
        worker=_SERVING,
        writes=X.CONNECTED,
    ),
    Rule(
        "greet",
        "both ends are connected (S14)",
        backend=frozenset({X.CONNECTED}),
        frontend=frozenset({X.CONNECTED}),
        worker=_SERVING,
        greeted=False,
        action=t.AskConnected(),
    ),
)
