# SPDX-License-Identifier: MIT
"""What every domain may ask of the hypervisor: event channels and grants, on a handle of its own.

Each call checks the request, changes the tables and returns the answer. Errors are `TableError`
(the caller's errno) or `OSError` (ours, no descriptors left); the tables are unchanged then. Does
not talk to clients; managing domains is in `embedded.hypervisor`.
"""

from __future__ import annotations

import errno
import functools
import os
import struct
from collections.abc import Callable

from embedded.domains import DomainTable
from embedded.evtchn import Channel, ChannelTable, End, TableError
from embedded.handle import Handle
from embedded.protocol import GRANT_ENTRIES, MAP_RESULT, Op, Reply, Request


class Operations:
    """The calls, over the tables of the whole host."""

    def __init__(self, domains: DomainTable, channels: ChannelTable) -> None:
        self._domains = domains
        self._channels = channels
        self.calls: dict[int, Callable[[Handle, Request], Reply]] = {
            Op.ALLOC_UNBOUND: self._alloc_unbound,
            Op.BIND_INTERDOMAIN: self._bind_interdomain,
            Op.CLOSE_PORT: self._close_port,
            Op.RESTRICT: self._restrict,
            Op.ATTACH: self._attach,
            Op.MAP: self._map,
            Op.UNMAP: self._unmap,
            Op.SET_MAX_GRANTS: self._set_max_grants,
            Op.RELEASE: self._release,
        }

    def release_all(self, handle: Handle) -> None:
        """Give back everything a handle holds."""
        handle.unmap_all()
        self._release_channels(self._channels.close_owner(handle))

    def close_ports(self, domid: int) -> None:
        """Close all ports of a domain that died."""
        self._release_channels(self._channels.close_domain(domid))

    def _release(self, handle: Handle, request: Request) -> Reply:
        self.release_all(handle)
        return Reply()

    # --- event channels ------------------------------------------------------------------------

    def _release_channels(self, dead: list[Channel]) -> None:
        for channel in dead:
            for bell in channel.bells:
                os.close(bell)

    def _alloc_unbound(self, handle: Handle, request: Request) -> Reply:
        handle.may_bind(request.domid)
        bells = _make_bells()
        try:
            end = self._channels.alloc_unbound(handle.domid, request.domid, handle, bells)
        except TableError:
            for bell in bells:
                os.close(bell)
            raise
        return _port_reply(end)

    def _bind_interdomain(self, handle: Handle, request: Request) -> Reply:
        handle.may_bind(request.domid)
        if request.domid:
            self._domains.get(request.domid)
        end = self._channels.bind(handle.domid, request.domid, request.argument, handle)
        # What was sent while the end was unbound is lost, and the port starts pending. We ring
        # first, so that the read has something to take and never waits.
        os.eventfd_write(end.own_bell, 1)
        os.eventfd_read(end.own_bell)
        os.eventfd_write(end.own_bell, 1)
        return _port_reply(end)

    def _close_port(self, handle: Handle, request: Request) -> Reply:
        dead = self._channels.close(handle.domid, request.argument, handle)
        self._release_channels([dead] if dead else [])
        return Reply()

    def _restrict(self, handle: Handle, request: Request) -> Reply:
        handle.restrict(request.domid)
        return Reply()

    # --- grants --------------------------------------------------------------------------------

    def _attach(self, handle: Handle, request: Request) -> Reply:
        record = self._domains.get(request.domid)
        return Reply(
            value=record.pages,
            count=GRANT_ENTRIES,
            serial=record.serial,
            descriptors=(record.memory,),
        )

    def _map(self, handle: Handle, request: Request) -> Reply:
        if not request.count or len(request.payload) != 4 * request.count:
            raise TableError(errno.EPROTO)
        record = self._domains.get(request.domid)
        refs = struct.unpack(f"={request.count}I", request.payload)
        map_id, elements = handle.map(record, refs, writable=bool(request.argument))
        return Reply(
            error=0 if map_id else -errno.EINVAL,
            value=map_id or 0,
            count=len(elements),
            serial=record.serial,
            payload=b"".join(MAP_RESULT.pack(at.frame, at.status) for at in elements),
        )

    def _unmap(self, handle: Handle, request: Request) -> Reply:
        handle.unmap(request.argument)
        return Reply()

    def _set_max_grants(self, handle: Handle, request: Request) -> Reply:
        handle.set_max_grants(request.argument)
        return Reply()


def _make_bells() -> tuple[int, int]:
    make = functools.partial(os.eventfd, 0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    first = make()
    try:
        return first, make()
    except OSError:
        os.close(first)
        raise


def _port_reply(end: End) -> Reply:
    return Reply(value=end.port, descriptors=(end.own_bell, end.peer_bell))
