# SPDX-License-Identifier: MIT
"""Which nodes of a device's two directories have to be read again. Pure.

Kept by name: a frontend that writes without end costs one entry and one read at a time. Bounded
in number and length, because the guest chooses the names below a frontend.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from shared.lifecycle_types import WorkerPhase
from shared.limits import NODE_NAME_MAX, SNAPSHOT_NODES_MAX

_DECIDING: Final = frozenset({"state", "online", "frontend", "frontend-id"})
"""Nodes of the backend directory that the supervisor itself reads."""
_OF_SCRIPT: Final = frozenset({"hotplug-status", "hotplug-error"})

FRONTEND_LISTENS: Final = frozenset({WorkerPhase.ATTACHING, WorkerPhase.SERVING})
BACKEND_LISTENS: Final = FRONTEND_LISTENS | {WorkerPhase.INITIALISING, WorkerPhase.READY}
"""Phases in which a worker has a snapshot that changes are relative to."""


class Changed(NamedTuple):
    """A node to be passed on to the worker (S9, S10)."""

    backend: bool
    untrusted_node: str


class Changes:
    """Everything noted and not read yet."""

    def __init__(self, *, script: bool = False) -> None:
        """`script`: a hotplug script writes the nodes that are otherwise ours."""
        self.backend = False
        """Read the backend directory's deciding nodes."""
        self.frontend = False
        """Read the frontend's state."""
        self.own_nodes = set() if script else set(_OF_SCRIPT)
        """Nodes of the backend directory that we write: an event for them is no news."""
        self._deciding = _DECIDING | _OF_SCRIPT if script else _DECIDING
        self._nodes: dict[Changed, None] = {}
        self._unsent: dict[Changed, None] = {}

    def __bool__(self) -> bool:
        return self.backend or self.frontend or bool(self._nodes)

    def note_backend(self, node: str | None) -> None:
        """An event about the backend directory; None: read everything."""
        if node in self.own_nodes:
            return
        if node is None or node in self._deciding:
            self.backend = True
        if node is not None and node != "state":
            self._add(Changed(True, node))

    def note_frontend(self, untrusted_node: str) -> None:
        """An event about the frontend directory; "": read everything."""
        if untrusted_node in ("", "state"):
            self.frontend = True
        else:
            self._add(Changed(False, untrusted_node))

    def next_node(self) -> Changed | None:
        """Take one node that is to be passed on."""
        changed = next(iter(self._nodes), None)
        if changed is not None:
            del self._nodes[changed]
        return changed

    def not_sent(self, changed: Changed) -> None:
        """The worker's queue was full: keep the node until `retry`."""
        if len(self._unsent) < SNAPSHOT_NODES_MAX:
            self._unsent[changed] = None

    @property
    def unsent(self) -> bool:
        """Whether something is kept for `retry`."""
        return bool(self._unsent)

    def retry(self) -> None:
        """There may be room again."""
        for changed in self._unsent:
            self._add(changed)
        self._unsent.clear()

    def _add(self, changed: Changed) -> None:
        short = len(changed.untrusted_node) <= NODE_NAME_MAX
        if short and len(self._nodes) < 2 * SNAPSHOT_NODES_MAX:
            self._nodes[changed] = None
