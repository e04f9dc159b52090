# SPDX-License-Identifier: MIT
"""The base of all frontends: the xenbus side, which is the same for every device type.

`advance()` looks at both ends' states and does the next step: it is called on
any watch event and never waits. `connect`, `close` and `reconnect` wait for it and are for guests
that have nothing else to do; they read the events of the connection.

    own state     backend state    step
    Initialising  InitWait         share a ring, publish it, Initialised
    Initialised   Connected        read what the backend says, Connected
    Connected     Connected        read it again (something changed)
    any but Closed Closing/Closed  stop I/O, Closing, Closed
    any           directory gone   unplugged: stop I/O, forget

A type derives from `Frontend` and brings the four hooks `_share`, `_read_info`, `_stop_io` and
`_drop_ring`. One whose steps come in another order replaces `_step` too and builds it from
`_offer`, `_take_info` and `_close_down`.

A frontend without a `state` node (`has_state`) has its ring from the beginning: `prepare` shares
it, and the toolstack writes where it is. It keeps its state to itself and follows the backend's.

Shared pages are taken back when the backend has let go of them; until then they stay granted and
are tried again at every step. All of a frontend belongs to one thread, except what the type says
another one may call (its I/O).
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, Final, Generic, TypeVar

from embedded.domain import Domain
from embedded.guest.channel import GuestChannel
from embedded.guest.pages import SharedPages
from embedded.toolstack import frontend_path
from shared.errors import HostError
from shared.xenbus import XenbusState
from shared.xenstore.blocking import BlockingXenstore
from shared.xenstore.errors import AccessDeniedError

_LEAVING: Final = (XenbusState.CLOSING, XenbusState.CLOSED, XenbusState.UNKNOWN)
_LEFT: Final = (XenbusState.CLOSED, XenbusState.UNKNOWN)
_AT_REST: Final = (XenbusState.CLOSED, XenbusState.INITIALISING, XenbusState.UNKNOWN)
_OPEN: Final = (
    XenbusState.INITIALISED,
    XenbusState.CONNECTED,
    XenbusState.RECONFIGURING,
    XenbusState.CLOSING,
)

Info = TypeVar("Info")
"""What the backend of a type says of the device once it is Connected."""


class Frontend(ABC, Generic[Info]):
    """The frontend of one device of a domain."""

    kind: ClassVar[str]
    """Directory below the guest's `device/`."""
    has_state: ClassVar[bool] = True
    """Whether its directory has a `state` node that it may write."""
    stale_nodes: ClassVar[tuple[str, ...]] = ()
    """Nodes that an earlier connection may have left and that must not stay if the present one
    does not write them."""

    def __init__(self, domain: Domain, xs: BlockingXenstore, devid: int) -> None:
        """`xs` is the domain's own connection. Nothing is written before `advance`/`connect`."""
        self.domain = domain
        self.devid = devid
        self.path = frontend_path(domain.domid, self.kind, devid)
        self.token = f"{self.kind}/{devid}"
        """Of the watch on the backend's state; also the device's name in the guest's log."""
        self.backend_path = ""
        self.backend_domid = 0
        self.state = XenbusState.UNKNOWN
        self.backend_state = XenbusState.UNKNOWN
        self.gone = False
        """Unplugged: the directory was removed."""
        self.info: Info | None = None
        self._xs = xs
        self._pages = SharedPages(domain)
        self._channels: list[GuestChannel] = []
        self._shared = False

    # What a type brings

    @abstractmethod
    def _share(self) -> Mapping[str, str]:
        """Take pages (`_pages`) and ports (`_open_channel`); the nodes that tell of them.

        May raise HostError half-way: pages and ports are given back by the caller.
        """

    @abstractmethod
    def _read_info(self) -> Info | None:
        """What the Connected backend says; None if it has not said all of it yet."""

    @abstractmethod
    def _stop_io(self) -> None:
        """The ring is about to go: get other threads out of it, let none in. Idempotent."""

    @abstractmethod
    def _drop_ring(self) -> None:
        """Forget the ring; its pages and ports are given back next. Idempotent."""

    @property
    def name(self) -> str:
        """What people call the device."""
        return str(self.devid)

    @property
    def connected(self) -> bool:
        """Whether the device can be used."""
        return self.state is XenbusState.CONNECTED

    def _step(self) -> None:
        """Do what both states call for."""
        if self.backend_state is XenbusState.INIT_WAIT:
            if self.state is XenbusState.INITIALISING:
                self._offer()
        elif self.backend_state is XenbusState.CONNECTED:
            if self.state in (XenbusState.INITIALISED, XenbusState.CONNECTED):
                self._take_info()
        elif self.backend_state in _LEAVING and self.state not in _AT_REST:
            self._close_down()

    # Life cycle

    def prepare(self, backend_domid: int = 0) -> Mapping[str, str]:
        """Share a ring before the device is attached; the nodes that the toolstack writes of it.

        Only for a frontend without a `state` node. Raises HostError: no memory, grant or port left.
        """
        self.backend_domid = backend_domid
        try:
            nodes = self._share()
        except BaseException:
            self._tear_down()
            raise
        self._shared = True
        self.state = XenbusState.INITIALISED
        return nodes

    def start(self) -> None:
        """Find the backend and watch its state; the watch's first event calls for `advance`.

        Raises:
            HostError: the directory is not that of a frontend, or xenstored is away.
        """
        backend = self._xs.read(f"{self.path}/backend").decode()
        self.backend_domid = int(self._xs.read(f"{self.path}/backend-id"))
        if self.backend_path and backend != self.backend_path:
            self._xs.unwatch(f"{self.backend_path}/state", self.token)
        if backend != self.backend_path:
            self.backend_path = backend
            self._xs.watch(f"{backend}/state", self.token)
        if self.has_state:
            self.state = XenbusState.from_wire(self._xs.read_or_none(f"{self.path}/state"))

    def advance(self) -> XenbusState:
        """Do what the states call for; returns the own state.

        Raises:
            HostError: xenstored is away, or there is no memory, grant or port left.
        """
        if not self.backend_path and not self.gone:
            self.start()
        if self._is_gone():
            self._unplugged()
            return self.state
        self.backend_state = self._read_state(f"{self.backend_path}/state")
        self._step()
        if not self._shared:
            self._pages.reclaim()
        return self.state

    def connect(self, timeout: float = 10.0) -> Info:
        """Go up to Connected.

        Raises:
            HostError: not within `timeout` seconds; says where both ends stand.
        """
        self._wait(lambda: self.connected, timeout, "connect")
        assert self.info is not None
        return self.info

    def close(self, timeout: float = 10.0) -> None:
        """Close from our side: Closing, Closed once the backend follows (as a shutdown does).

        Raises:
            HostError: the backend does not follow; everything of ours is closed all the same.
        """
        if self.gone or not self.has_state:
            return  # without a state it cannot say so: the toolstack closes it
        self.begin_close()
        try:
            self._wait(lambda: self.backend_state in _LEAVING, timeout, "close")
        finally:
            # The wait has done it already if the backend followed.
            if not self.gone and self.state in _OPEN:
                self._close_down()
        self._wait(lambda: self.backend_state in _LEFT, timeout, "close")

    def begin_close(self) -> None:
        """First half of `close`, which does not wait: many devices close at the same time."""
        if not self.gone and self.has_state and self.state in _OPEN:
            self._stop_io()
            self._write_state(XenbusState.CLOSING)

    def restart(self) -> None:
        """Back to Initialising as another kernel would find it; does not wait.

        After `close` this is a reboot. While Connected it is a kernel that crashed: the backend
        must notice by itself that everything it has mapped belongs to the past. A ring that was
        made with the domain goes on.
        """
        if not self.has_state:
            return
        self._tear_down()
        self.info = None
        self._write_state(XenbusState.INITIALISING)

    def reconnect(self, timeout: float = 10.0) -> Info:
        """Close in order if need be, start again and connect; raises as `connect`."""
        self.close(timeout)
        self.restart()
        return self.connect(timeout)

    def release(self) -> None:
        """Drop everything without a word to the backend, as a domain that dies does."""
        self._tear_down()

    def reclaim(self) -> None:
        """Try again to take back what the backend had not let go of."""
        self._pages.reclaim()

    @property
    def leaked_pages(self) -> int:
        """Pages the backend has not let go of."""
        return self._pages.held

    # What steps are built from

    def _offer(self, state: XenbusState = XenbusState.INITIALISED) -> None:
        """Share a ring and publish it in one transaction, then go on to `state`."""
        try:
            nodes = self._share()
            self._shared = True
            self._xs.transact(lambda tx: self._publish(nodes, tx))
            self._write_state(state)
        except BaseException:
            self._tear_down()
            raise

    def _publish(self, nodes: Mapping[str, str], tx: int) -> None:
        for name in self.stale_nodes:
            if name not in nodes and self._xs.read_or_none(f"{self.path}/{name}", tx) is not None:
                self._xs.rm(f"{self.path}/{name}", tx)
        self._xs.write_many({f"{self.path}/{name}": value for name, value in nodes.items()}, tx)

    def _take_info(self) -> None:
        """Read what the backend says; the first time, become Connected."""
        info = self._read_info() if self._shared else None
        if info is None:
            # Connected without a word, or before we shared anything: not our turn yet.
            return
        self.info = info
        if self.state is not XenbusState.CONNECTED:
            self._write_state(XenbusState.CONNECTED)

    def _close_down(self) -> None:
        """Follow the backend down: Closing, then, with everything given back, Closed.

        A ring that was made with the domain stays, for a backend that comes back.
        """
        self._stop_io()
        if not self.has_state:
            self.info = None
            self._write_state(XenbusState.INITIALISED)
            return
        if self.state is not XenbusState.CLOSING:
            self._write_state(XenbusState.CLOSING)
        self._tear_down()
        self._write_state(XenbusState.CLOSED)

    def _open_channel(self) -> GuestChannel:
        """A port for the backend to bind, closed with the ring.

        It has a handle of its own, so that the thread that waits for this device gets no other
        device's events.
        """
        channel = GuestChannel(self.domain, self.backend_domid)
        self._channels.append(channel)
        return channel

    def _read_state(self, path: str) -> XenbusState:
        try:
            return XenbusState.from_wire(self._xs.read_or_none(path))
        except AccessDeniedError:
            # That is how xenstored answers for a node that is not there in a directory which we
            # may not list: the backend's own directory is gone.
            return XenbusState.UNKNOWN

    def _is_gone(self) -> bool:
        if self.has_state:
            return self._read_state(f"{self.path}/state") is XenbusState.UNKNOWN
        return self._xs.read_or_none(f"{self.path}/backend") is None

    def _write_state(self, state: XenbusState) -> None:
        if self.has_state:
            self._xs.write(f"{self.path}/state", state.to_wire())
        self.state = state

    def _unplugged(self) -> None:
        """The toolstack removed our directory: nothing may be written there any more."""
        if self.gone:
            return
        self.gone = True
        self.state = XenbusState.CLOSED
        self._tear_down()
        if self.backend_path:
            self._xs.unwatch(f"{self.backend_path}/state", self.token)

    def _tear_down(self) -> None:
        self._stop_io()
        self._drop_ring()
        self._shared = False
        while self._channels:
            self._channels.pop().close()
        self._pages.retire()

    def _wait(self, reached: Callable[[], bool], timeout: float, what: str) -> None:
        deadline = time.monotonic() + timeout
        self.advance()
        while not reached():
            left = deadline - time.monotonic()
            if self.gone:
                raise HostError(f"{what} frontend: {self.path}: it was unplugged")
            if left <= 0 or self._xs.wait_event(left) is None:
                self.advance()
                if reached():
                    return
                raise HostError(
                    f"{what} frontend: {self.path}: not within {timeout:g} s "
                    f"(frontend {self.state}, backend {self.backend_state})"
                )
            self.advance()
