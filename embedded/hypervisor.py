# SPDX-License-Identifier: MIT
"""The embedded hypervisor: one process that keeps domains, event channels and grants apart.

Every living domain has a socket `DIR/hypervisor/domain/<domid>`; a process that can connect there
speaks for that domain. A connection is a handle, like an open /dev/xen/evtchn or gntdev: when it
closes, for any reason, its ports are closed and its mappings released. Invariants:

- a client can only make its own calls fail: bad requests are answered with an errno, and a client
  that does not take its reply loses its handle;
- what was closed before a request was made is closed when the request is served: a client that has
  seen a process die finds its ports and pages free;
- nothing here waits for a client, and one readiness callback serves one request, so a noisy
  client gets only its turn;
- events and copies do not pass through here at all (embedded/native).

It keeps domains apart as Xen does for the guests' side of the protocols. It does not confine the
processes of the host's user: one that speaks for a domain gets whole memories to copy from, and
both bells of its channels.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import json
import logging
import os
import select
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from embedded.domains import DomainTable
from embedded.evtchn import ChannelTable, TableError
from embedded.handle import Handle
from embedded.operations import Operations
from embedded.protocol import (
    NAME_MAX,
    REQUEST_MAX,
    TEXT_MAX,
    Op,
    Reply,
    Request,
    socket_path,
)
from shared.device_id import DOMID_FIRST_RESERVED
from shared.errors import ConfigError, HostError

GUEST_HANDLES_MAX: Final = 256
"""Handles a guest may have open; dom0's number is bounded by the descriptor limit only."""

SOCKET_PATH_MAX: Final = 107
"""Bytes of a UNIX socket's path (sun_path without its end)."""

_log = logging.getLogger(__name__)


class HypervisorServer:
    """The hypervisor's server on an asyncio loop.

    Args:
        directory: holds `hypervisor/`, which is made and removed here.
        on_death: called with the id of every domain that died. Until `reaped` is called with it,
            no other domain gets the id: what others still know of the dead one would be taken for
            the new one's. Without `on_death`, ids are free at once.
    """

    def __init__(self, directory: Path, on_death: Callable[[int], None] | None = None) -> None:
        self._directory = directory
        self._on_death = on_death or self.reaped
        self._dying: dict[int, list[tuple[Handle, bytes]]] = {}
        self._loop = asyncio.get_running_loop()
        self._domains = DomainTable()
        self._channels = ChannelTable()
        self._listeners: dict[int, socket.socket] = {}
        self._lifelines: dict[int, socket.socket] = {}
        self._handles: dict[int, set[Handle]] = {}
        self._hangups = select.epoll()
        self._on_hangup: dict[int, Callable[[], None]] = {}
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._operations = Operations(self._domains, self._channels)
        self._calls: dict[int, Callable[[Handle, Request], Reply]] = {
            **self._operations.calls,
            Op.CREATE_DOMAIN: self._create_domain,
            Op.DESTROY_DOMAIN: self._destroy_domain,
            Op.LIST_DOMAINS: self._list_domains,
            Op.STATS: self._stats,
        }

    @property
    def domids(self) -> list[int]:
        """The living guests."""
        return sorted(self._domains.living)

    def start(self) -> None:
        """Open dom0's socket. Sockets of a hypervisor that was killed are removed.

        Raises:
            ConfigError: the directory's path is too long for a socket.
            HostError: the socket cannot be made.
        """
        home = self._directory / "hypervisor"
        longest = socket_path(str(self._directory), DOMID_FIRST_RESERVED)
        if len(os.fsencode(longest)) > SOCKET_PATH_MAX:
            raise ConfigError(
                f"start embedded hypervisor: {self._directory}: the path is too long for a "
                f"socket, at most {SOCKET_PATH_MAX - 24} bytes"
            )
        try:
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir(mode=0o700)
            (home / "domain").mkdir(mode=0o700)
            self._listen(0)
        except OSError as error:
            raise HostError(f"start embedded hypervisor: {home}: {error.strerror}") from error

    def close(self) -> None:
        """End all domains and handles and remove the sockets. Calls no `on_death`."""
        self._on_death = self.reaped
        for domid in self.domids:
            self.destroy(domid)
        for waiting in self._dying.values():
            waiting.clear()
        for handle in list(self._handles.get(0, ())):
            self._drop(handle)
        if 0 in self._listeners:
            self._stop_listening(0)
        self._give_up_spare()
        self._hangups.close()
        shutil.rmtree(self._directory / "hypervisor", ignore_errors=True)

    def destroy(self, domid: int) -> None:
        """End a domain: memory marked dead, ports closed, handles closed, socket removed.

        Raises:
            TableError: ESRCH, it is not alive.
        """
        record = self._domains.remove(domid)
        self._operations.close_ports(domid)
        for handle in list(self._handles.get(domid, ())):
            self._drop(handle)
        lifeline = self._lifelines.pop(domid)
        self._forget(lifeline)
        self._stop_listening(domid)
        _log.info("domain %d (%s) is gone", domid, record.name)
        self._dying[domid] = []
        self._domains.reserved.add(domid)
        self._on_death(domid)

    def reaped(self, domid: int) -> None:
        """Nothing is left of a dead domain anywhere: its id may be given again."""
        self._domains.reserved.discard(domid)
        for handle, untrusted_data in self._dying.pop(domid, ()):
            if handle.connection.fileno() >= 0:
                self._respond(handle, untrusted_data)

    # --- connections ---------------------------------------------------------------------------

    def _listen(self, domid: int) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            listener.bind(socket_path(str(self._directory), domid))
            listener.listen(1024)
        except OSError:
            listener.close()
            raise
        self._listeners[domid] = listener
        self._loop.add_reader(listener, self._accept, domid, listener)

    def _stop_listening(self, domid: int) -> None:
        listener = self._listeners.pop(domid)
        self._loop.remove_reader(listener)
        listener.close()
        with contextlib.suppress(FileNotFoundError):
            Path(socket_path(str(self._directory), domid)).unlink()

    def _accept(self, domid: int, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            self._refuse_one(listener, error)
            return
        handles = self._handles.setdefault(domid, set())
        if domid and len(handles) >= GUEST_HANDLES_MAX:
            connection.close()
            return
        connection.setblocking(False)
        handle = Handle(connection, domid)
        handles.add(handle)
        self._attend(
            connection,
            functools.partial(self._serve, handle),
            functools.partial(self._drop, handle),
        )

    def _attend(
        self, end: socket.socket, on_data: Callable[[], None], on_hangup: Callable[[], None]
    ) -> None:
        self._loop.add_reader(end, on_data)
        self._hangups.register(end, select.EPOLLRDHUP)
        self._on_hangup[end.fileno()] = on_hangup

    def _forget(self, end: socket.socket) -> None:
        del self._on_hangup[end.fileno()]
        self._hangups.unregister(end)
        self._loop.remove_reader(end)
        end.close()

    def _settle(self) -> None:
        """See to the clients that hung up first: the loop's order is not that of what happened."""
        for descriptor, _ in self._hangups.poll(0):
            if descriptor in self._on_hangup:
                self._on_hangup[descriptor]()

    def _refuse_one(self, listener: socket.socket, error: OSError) -> None:
        # Without free descriptors the listener would stay readable forever: the spare one lets us
        # accept the caller and turn it away.
        _log.error("open handle: embedded hypervisor: %s", error.strerror)
        self._give_up_spare()
        with contextlib.suppress(OSError):
            listener.accept()[0].close()
        with contextlib.suppress(OSError):
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _give_up_spare(self) -> None:
        if self._spare >= 0:
            os.close(self._spare)
        self._spare = -1

    def _drop(self, handle: Handle) -> None:
        handles = self._handles[handle.domid]
        handles.remove(handle)
        if not handles:
            del self._handles[handle.domid]
        self._forget(handle.connection)
        self._operations.release_all(handle)

    def _serve(self, handle: Handle) -> None:
        self._settle()
        if handle.connection.fileno() < 0:
            return
        try:
            untrusted_data = handle.connection.recv(REQUEST_MAX + 1)
        except BlockingIOError:
            return
        except OSError:
            untrusted_data = b""
        if not untrusted_data:
            self._drop(handle)
            return
        request = Request.parse(untrusted_data)
        if request and request.op == Op.CREATE_DOMAIN and request.domid in self._dying:
            # As on Xen, a dying domain keeps its id until all of it is gone; `reaped` answers.
            self._dying[request.domid].append((handle, untrusted_data))
            return
        self._respond(handle, untrusted_data)

    def _respond(self, handle: Handle, untrusted_data: bytes) -> None:
        reply = self._answer(handle, untrusted_data)
        if handle.connection.fileno() < 0:
            return  # it ended its own domain
        try:
            socket.send_fds(handle.connection, [reply.pack()], list(reply.descriptors))
        except OSError as error:
            # It does not read, or it is gone; there is no second try, so the handle is useless.
            _log.debug("answer: handle of domain %d: %s", handle.domid, error.strerror)
            self._drop(handle)

    def _answer(self, handle: Handle, untrusted_data: bytes) -> Reply:
        request = Request.parse(untrusted_data)
        call = self._calls.get(request.op) if request else None
        if request is None or call is None or len(untrusted_data) > REQUEST_MAX:
            return Reply(error=-errno.EINVAL)
        try:
            return call(handle, request)
        except TableError as error:
            return Reply(error=-error.code)
        except OSError as error:
            _log.error("%s: domain %d: %s", Op(request.op).name, handle.domid, error.strerror)
            return Reply(error=-(error.errno or errno.EIO))

    # --- domains: for dom0 only ----------------------------------------------------------------

    def _create_domain(self, handle: Handle, request: Request) -> Reply:
        _dom0_only(handle)
        if len(request.payload) != request.count or request.count > NAME_MAX:
            raise TableError(errno.EINVAL)
        name = request.payload.decode("ascii", errors="replace")
        record = self._domains.create(request.domid, name, request.argument)
        domid = record.domid
        ours: socket.socket | None = None
        try:
            ours, theirs = socket.socketpair()
            self._listen(domid)
        except OSError:
            self._domains.remove(domid)
            if ours is not None:
                ours.close()
                theirs.close()
            raise
        ours.setblocking(False)
        self._lifelines[domid] = ours
        self._attend(
            ours,
            functools.partial(self._lifeline_ready, domid, ours),
            functools.partial(self.destroy, domid),
        )
        _log.info("domain %d (%s) is alive, %d pages", domid, name, record.pages)
        # Closed once the reply is out: from then on only the client holds it.
        self._loop.call_soon(theirs.close)
        return Reply(
            value=domid, serial=record.serial, descriptors=(record.memory, theirs.fileno())
        )

    def _lifeline_ready(self, domid: int, lifeline: socket.socket) -> None:
        try:
            cut = not lifeline.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            cut = True
        if cut:
            self.destroy(domid)

    def _destroy_domain(self, handle: Handle, request: Request) -> Reply:
        _dom0_only(handle)
        self.destroy(request.domid)
        return Reply()

    def _list_domains(self, handle: Handle, request: Request) -> Reply:
        _dom0_only(handle)
        return _text_reply(
            [
                {"domid": domid, "name": record.name, "pages": record.pages}
                for domid, record in sorted(self._domains.living.items())
            ]
        )

    def _stats(self, handle: Handle, request: Request) -> Reply:
        _dom0_only(handle)
        return _text_reply(
            {
                "domains": {domid: self._domain_stats(domid) for domid in [0, *self.domids]},
                "handles": sum(map(len, self._handles.values())),
                "mapped_of_the_dead": sum(
                    each.mapped_of_the_dead()
                    for handles in self._handles.values()
                    for each in handles
                ),
                "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1,
            }
        )

    def _domain_stats(self, domid: int) -> dict[str, int]:
        ports, bound = self._channels.counts(domid)
        return {
            "ports": ports,
            "bound": bound,
            "mapped": self._domains.living[domid].grants.mapped if domid else 0,
            "handles": len(self._handles.get(domid, ())),
        }


def _dom0_only(handle: Handle) -> None:
    if handle.domid:
        raise TableError(errno.EPERM)


def _text_reply(content: object) -> Reply:
    text = json.dumps(content, separators=(",", ":")).encode()
    if len(text) > TEXT_MAX:
        raise TableError(errno.E2BIG)
    return Reply(payload=text)
