# SPDX-License-Identifier: MIT
"""Sets of states and phases that rows of the transition table have in common."""

from __future__ import annotations

from typing import Final

from shared.lifecycle_types import WorkerPhase as W
from shared.xenbus import XenbusState as X

RECONFIGURATION: Final = frozenset({X.RECONFIGURING, X.RECONFIGURED})
"""States in the middle of a connection. No backend is in one of them unless its type says so."""
RUNNING: Final = RECONFIGURATION | {X.CONNECTED}
LIVE: Final = RUNNING | {X.CLOSING}
"""States in which a ring may be in use. A device in use needs its ring in Closing too."""
OPEN: Final = RUNNING | {X.INITIALISING, X.INIT_WAIT}
FRONTEND_READY: Final = frozenset({X.INITIALISED, X.CONNECTED})
FRONTEND_ABSENT: Final = frozenset({X.UNKNOWN, X.INVALID})
"""The frontend's directory is gone or its state is invalid: there is nobody to serve."""
FRONTEND_CLOSED: Final = frozenset({X.CLOSING, X.CLOSED})
ATTACHED: Final = frozenset({W.ADOPTING, W.ATTACHING, W.SERVING, W.DETACHING, W.STOPPING})
"""Phases in which the worker may still hold pages or ports of the guest."""
DETACHED: Final = frozenset(W) - ATTACHED
ABSENT: Final = frozenset({W.ABSENT})
SERVING: Final = frozenset({W.SERVING})
NO_PROCESS: Final = frozenset({W.ABSENT, W.STOPPING})
"""Phases in which no worker obeys orders."""
ALIVE: Final = frozenset(W) - NO_PROCESS
STARTING: Final = frozenset({X.INITIALISING, X.INIT_WAIT})
