# SPDX-License-Identifier: MIT
"""Whether a frontend's ring is the one that its adopted worker serves.

No state tells: a frontend may have closed and connected again while there was no supervisor. It is
checked once for each adoption, as soon as the worker says that it serves.
"""

from __future__ import annotations

from shared.device_types import DeviceType
from shared.errors import GuestFault
from shared.lifecycle_types import WorkerPhase
from supervisor.workers.records import ring_identity
from supervisor.xenstore.snapshot import read_frontend
from supervisor.xenstore.store import Store


class RingCheck:
    """Of one device. `due`: to be checked now."""

    def __init__(self, type_: DeviceType) -> None:
        self._type = type_
        self._unknown = False
        self.due = False

    def begin(self) -> None:
        """A worker was adopted."""
        self._unknown = True

    def look(self, phase: WorkerPhase) -> None:
        """The life cycle has advanced: the check may have become due."""
        self.due = self._unknown and phase is WorkerPhase.SERVING

    async def is_another(self, store: Store, frontend_path: str, known: str) -> bool:
        """Read the frontend's nodes and compare; if they cannot be read, it is due again later.

        A guest whose directory is out of bounds keeps its worker: it harms nobody else.

        Raises:
            XenstoreError: the nodes cannot be read.
        """
        self.due = False
        try:
            another = ring_identity(self._type, await read_frontend(store, frontend_path)) != known
        except GuestFault:
            another = False
        self._unknown = False
        return another
