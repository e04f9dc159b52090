# SPDX-License-Identifier: MIT
"""What the hypervisor keeps for one open handle: restriction, mappings, bounds.

Does not talk to the client; `embedded.hypervisor` does.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from typing import Final, NamedTuple

from embedded.domains import DomainRecord
from embedded.evtchn import TableError
from embedded.grants import Element

MAX_GRANTS: Final = 65536
"""Pages one handle may have mapped unless it asks for less (gntdev's default limit)."""


class _MapEntry(NamedTuple):
    """One map call that succeeded. Holds the domain's record, also when the domain is dead."""

    record: DomainRecord
    refs: Sequence[int]
    writable: bool


class Handle:
    """One connection, speaking for domain `domid`."""

    def __init__(self, connection: socket.socket, domid: int) -> None:
        self.connection = connection
        self.domid = domid
        self.restricted_to: int | None = None
        self._maps: dict[int, _MapEntry] = {}
        self._next_id = 1
        self._mapped = 0
        self._max_grants = MAX_GRANTS
        self._ever_mapped = False

    def restrict(self, domid: int) -> None:
        """As IOCTL_EVTCHN_RESTRICT_DOMID: once, never undone; raises TableError(EACCES)."""
        if self.restricted_to is not None:
            raise TableError(errno.EACCES)
        self.restricted_to = domid

    def may_bind(self, domid: int) -> None:
        """Raises TableError(EACCES) if the handle is restricted to another domain."""
        if self.restricted_to is not None and self.restricted_to != domid:
            raise TableError(errno.EACCES)

    def set_max_grants(self, count: int) -> None:
        """Raises TableError: EBUSY after the first map, EINVAL if it would raise the bound."""
        if self._ever_mapped:
            raise TableError(errno.EBUSY)
        if count > self._max_grants:
            raise TableError(errno.EINVAL)
        self._max_grants = count

    def map(
        self, record: DomainRecord, refs: Sequence[int], *, writable: bool
    ) -> tuple[int | None, list[Element]]:
        """Map all or none: the id to unmap by (None if refused) and the outcome of each.

        Raises:
            TableError: ENOMEM, the handle's bound would be passed.
        """
        if self._mapped + len(refs) > self._max_grants:
            raise TableError(errno.ENOMEM)
        good, elements = record.grants.map(refs, self.domid, writable=writable)
        if not good:
            return None, elements
        self._ever_mapped = True
        self._mapped += len(refs)
        while self._next_id in self._maps:
            self._next_id = self._next_id % 0x7FFFFFFF + 1
        map_id = self._next_id
        self._next_id = map_id % 0x7FFFFFFF + 1
        self._maps[map_id] = _MapEntry(record, tuple(refs), writable)
        return map_id, elements

    def unmap(self, map_id: int) -> None:
        """Raises TableError(EINVAL) if there is no such mapping."""
        entry = self._maps.pop(map_id, None)
        if entry is None:
            raise TableError(errno.EINVAL)
        self._mapped -= len(entry.refs)
        entry.record.grants.unmap(entry.refs, writable=entry.writable)

    def unmap_all(self) -> None:
        for map_id in list(self._maps):
            self.unmap(map_id)

    def mapped_of_the_dead(self) -> int:
        """Pages of domains that died which this handle still has mapped."""
        return sum(len(entry.refs) for entry in self._maps.values() if not entry.record.alive)
