# SPDX-License-Identifier: MIT
"""The event-channel table: who has which port, and what is bound to what.

A channel has two ends. An end is a port of a domain, owned by one handle, or it is free, and then
the channel remembers which domain may bind there. Semantics as in xen/common/event_channel.c:

- binding needs an unbound end kept for the caller's domain, else EINVAL (ESRCH: no such domain,
  which the caller of this table looks up);
- closing one end makes the other unbound for the same domain, so it can be bound again;
- a channel with no end left is dead.

Does no I/O: bells are only numbers here; the caller that closes ends gets the dead channels back
and closes their bells.
"""

from __future__ import annotations

import errno
import heapq
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final

from embedded.protocol import GUEST_PORTS_MAX, PORTS_MAX


class TableError(Exception):
    """A call failed; `code` is the errno the caller sees."""

    def __init__(self, code: int) -> None:
        super().__init__(errno.errorcode[code])
        self.code: Final = code


@dataclass(slots=True, eq=False)
class End:
    """One end of a channel: a port of a domain, held by a handle."""

    domid: int
    port: int
    owner: Hashable
    channel: Channel
    side: int

    @property
    def own_bell(self) -> int:
        return self.channel.bells[self.side]

    @property
    def peer_bell(self) -> int:
        return self.channel.bells[1 - self.side]

    @property
    def bound(self) -> bool:
        return self.channel.ends[1 - self.side] is not None


@dataclass(slots=True, eq=False)
class Channel:
    """Both bells, both ends; `kept_for[i]` is the domain that may bind where `ends[i]` is None."""

    bells: tuple[int, int]
    ends: list[End | None] = field(default_factory=lambda: [None, None])
    kept_for: list[int] = field(default_factory=lambda: [-1, -1])


class _Ports:
    """The ports of one domain; as on Xen, the lowest free number is given next, never 0."""

    def __init__(self, limit: int) -> None:
        self.ends: dict[int, End] = {}
        self._limit = limit
        self._next = 1
        self._freed: list[int] = []

    def take(self) -> int:
        if self._freed:
            return heapq.heappop(self._freed)
        if self._next >= self._limit:
            raise TableError(errno.ENOSPC)
        self._next += 1
        return self._next - 1

    def give_back(self, port: int) -> None:
        del self.ends[port]
        heapq.heappush(self._freed, port)


class ChannelTable:
    """All event channels of the host."""

    def __init__(self) -> None:
        self._domains: dict[int, _Ports] = {}
        self._owned: dict[Hashable, set[End]] = {}

    def alloc_unbound(
        self, domid: int, remote: int, owner: Hashable, bells: tuple[int, int]
    ) -> End:
        """A new channel whose other end is kept for `remote`; raises TableError(ENOSPC)."""
        channel = Channel(bells)
        end = self._add(channel, 0, domid, owner)
        channel.kept_for[1] = remote
        return end

    def bind(self, domid: int, remote: int, remote_port: int, owner: Hashable) -> End:
        """Take the free end at `remote`'s port; raises TableError(EINVAL or ENOSPC)."""
        ports = self._domains.get(remote)
        peer = ports.ends.get(remote_port) if ports else None
        if peer is None or peer.bound or peer.channel.kept_for[1 - peer.side] != domid:
            raise TableError(errno.EINVAL)
        return self._add(peer.channel, 1 - peer.side, domid, owner)

    def close(self, domid: int, port: int, owner: Hashable) -> Channel | None:
        """Close a port of this handle; the channel if it is dead now; raises ENOTCONN."""
        ports = self._domains.get(domid)
        end = ports.ends.get(port) if ports else None
        if end is None or end.owner is not owner:
            raise TableError(errno.ENOTCONN)
        return self._close(end)

    def close_owner(self, owner: Hashable) -> list[Channel]:
        """Close all ports of a handle; the channels that are dead now."""
        return self._close_all(list(self._owned.get(owner, ())))

    def close_domain(self, domid: int) -> list[Channel]:
        """Close all ports of a domain that died; the channels that are dead now."""
        ports = self._domains.get(domid)
        dead = self._close_all(list(ports.ends.values())) if ports else []
        self._domains.pop(domid, None)
        return dead

    def counts(self, domid: int) -> tuple[int, int]:
        """Ports of a domain, and how many of them are bound."""
        ports = self._domains.get(domid)
        if ports is None:
            return 0, 0
        return len(ports.ends), sum(end.bound for end in ports.ends.values())

    def _add(self, channel: Channel, side: int, domid: int, owner: Hashable) -> End:
        ports = self._domains.get(domid)
        if ports is None:
            ports = self._domains[domid] = _Ports(PORTS_MAX if domid == 0 else GUEST_PORTS_MAX)
        end = End(domid, ports.take(), owner, channel, side)
        ports.ends[end.port] = end
        channel.ends[side] = end
        self._owned.setdefault(owner, set()).add(end)
        return end

    def _close_all(self, ends: list[End]) -> list[Channel]:
        return [channel for end in ends if (channel := self._close(end)) is not None]

    def _close(self, end: End) -> Channel | None:
        owned = self._owned[end.owner]
        owned.remove(end)
        if not owned:
            del self._owned[end.owner]
        self._domains[end.domid].give_back(end.port)
        channel = end.channel
        channel.ends[end.side] = None
        channel.kept_for[end.side] = end.domid
        return None if end.bound else channel
