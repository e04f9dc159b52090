# SPDX-License-Identifier: MIT
"""A guest's block frontend: the xenbus side, following Linux's xen-blkfront.

`advance()` looks at both ends' states and does the next step, whatever happened: it is called on
any watch event and never waits. `connect`, `close` and `reconnect` wait for it and are for guests
that have nothing else to do; they read the events of the connection.

    own state     backend state    step
    Initialising  InitWait         share a ring, publish it, Initialised
    Initialised   Connected        read the disk's figures, Connected
    Connected     Connected        read the figures again (the disk was resized)
    any but Closed Closing/Closed  stop I/O, Closing, Closed
    any           directory gone   unplugged: stop I/O, forget

Ring and data pages are taken back when the backend has let go of them; until then they stay
granted and are tried again at every step. I/O may run in one other thread at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from embedded.domain import Domain
from embedded.guest.channel import GuestChannel
from embedded.protocol import GRANT_ENTRIES
from shared.errors import HostError
from shared.xenbus import XenbusState
from shared.xenstore.blocking import BlockingXenstore
from shared.xenstore.errors import AccessDeniedError
from worker.devices.block.guest.disk import name_of
from worker.devices.block.guest.disk_io import DiskInfo, DiskIo
from worker.devices.block.guest.ring import SECTOR, FrontRing

ORDER_MAX: Final = 4
"""2^4 pages of ring; what Linux and this backend go up to."""
_LEAVING: Final = (XenbusState.CLOSING, XenbusState.CLOSED, XenbusState.UNKNOWN)
_LEFT: Final = (XenbusState.CLOSED, XenbusState.UNKNOWN)
_AT_REST: Final = (XenbusState.CLOSED, XenbusState.INITIALISING, XenbusState.UNKNOWN)
_OPEN: Final = (XenbusState.INITIALISED, XenbusState.CONNECTED, XenbusState.CLOSING)

PROTOCOLS: Final = {"x86_64-abi": 64, "arm-abi": 64, "x86_32-abi": 32}


class BlockFrontend(DiskIo):
    """The frontend of one disk of a domain."""

    def __init__(
        self,
        domain: Domain,
        xs: BlockingXenstore,
        devid: int,
        *,
        protocol: str = "x86_64-abi",
        max_ring_order: int = ORDER_MAX,
        persistent: bool = True,
        first_index: int = 0,
    ) -> None:
        """`xs` is the domain's own connection. Nothing is written before `advance`/`connect`.

        Args:
            protocol: layout of the requests, a key of `PROTOCOLS`.
            max_ring_order: largest ring to ask for; the backend's offer bounds it as well.
            persistent: offer persistent grants; without, every request is granted and revoked.
            first_index: where the ring's indices start; see `FrontRing`.
        """
        super().__init__(domain, devid)
        self.devid = devid
        self.token = f"vbd-{devid}"
        self.backend_path = ""
        self.state = XenbusState.UNKNOWN
        self.backend_state = XenbusState.UNKNOWN
        self.gone = False
        self._xs = xs
        self.protocol = protocol
        """Of the next connection; a kernel may follow another one that spoke otherwise."""
        self._max_order = max_ring_order
        self._want_persistent = persistent
        self._first_index = first_index
        self._channel: GuestChannel | None = None

    # Life cycle

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
        self.state = XenbusState.from_wire(self._xs.read_or_none(f"{self.path}/state"))

    def advance(self) -> XenbusState:
        """Do what the states call for; returns the own state.

        Raises:
            HostError: xenstored is away, or there is no memory, grant or port left.
        """
        if not self.backend_path and not self.gone:
            self.start()
        if self._read_state(f"{self.path}/state") is XenbusState.UNKNOWN:
            self._unplugged()
            return self.state
        self.backend_state = self._read_state(f"{self.backend_path}/state")
        if self.backend_state is XenbusState.INIT_WAIT:
            if self.state is XenbusState.INITIALISING:
                self._share_ring()
        elif self.backend_state is XenbusState.CONNECTED:
            if self.state in (XenbusState.INITIALISED, XenbusState.CONNECTED):
                self._take_figures()
        elif self.backend_state in _LEAVING and self.state not in _AT_REST:
            self._close_down()
        if self.ring is None:
            self._pages.reclaim()
        return self.state

    def connect(self, timeout: float = 10.0) -> DiskInfo:
        """Go up to Connected.

        Raises:
            HostError: not within `timeout` seconds; says where both ends stand.
        """
        self._wait(lambda: self.state is XenbusState.CONNECTED, timeout, "connect")
        assert self.info is not None
        return self.info

    def close(self, timeout: float = 10.0) -> None:
        """Close from our side: Closing, Closed once the backend follows (as a shutdown does).

        Raises:
            HostError: the backend does not follow; everything of ours is closed all the same.
        """
        if self.gone:
            return
        self.begin_close()
        try:
            self._wait(lambda: self.backend_state in _LEAVING, timeout, "close")
        finally:
            # The wait has done it already if the backend followed.
            if not self.gone and self.state in _OPEN:
                self._close_down()
        self._wait(lambda: self.backend_state in _LEFT, timeout, "close")

    def begin_close(self) -> None:
        """First half of `close`, which does not wait: many disks close at the same time."""
        if not self.gone and self.state in _OPEN:
            self._stop_io()
            self._write_state(XenbusState.CLOSING)

    def restart(self) -> None:
        """Back to Initialising as another kernel would find it; does not wait.

        After `close` this is a reboot. While Connected it is a kernel that crashed: the backend
        must notice by itself that everything it has mapped is of the past.
        """
        self._tear_down()
        self.info = None
        self._write_state(XenbusState.INITIALISING)

    def reconnect(self, timeout: float = 10.0) -> DiskInfo:
        """Close in order if need be, start anew and connect; raises as `connect`."""
        self.close(timeout)
        self.restart()
        return self.connect(timeout)

    def release(self) -> None:
        """Drop everything without a word to the backend, as a domain that dies does."""
        self._tear_down()
        if self.table is not None:
            self.table.close()
            self.table = None

    @property
    def vdev(self) -> str:
        """Name of the disk in the guest."""
        return name_of(self.devid)

    def reclaim(self) -> None:
        """Try again to take back what the backend had not let go of."""
        self._pages.reclaim()

    @property
    def leaked_pages(self) -> int:
        """Pages the backend has not let go of."""
        return self._pages.held

    # Steps

    def _share_ring(self) -> None:
        """Steps of talk_to_blkback(): the ring's pages, a port, all of it in one transaction."""
        try:
            nodes = self._make_ring()
            self._xs.transact(lambda tx: self._publish(nodes, tx))
            self._write_state(XenbusState.INITIALISED)
        except BaseException:
            self._tear_down()
            raise

    def _make_ring(self) -> dict[str, str]:
        """Take pages and a port and make the ring; returns the nodes that tell of them."""
        offered = _number(self._xs.read_or_none(f"{self.backend_path}/max-ring-page-order"))
        order = min(offered or 0, self._max_order)
        persistent = self._xs.read_or_none(f"{self.backend_path}/feature-persistent") == b"1"
        self._persistent = persistent and self._want_persistent
        frames, refs = self._pages.ring(order, self.backend_domid)
        # A handle of its own, so that the thread that waits for this disk gets no other's events.
        channel = self._channel = GuestChannel(self.domain, self.backend_domid)
        self.ring = FrontRing(
            ring=self._pages.address(frames[0]),
            order=order,
            bits=PROTOCOLS[self.protocol],
            grant_table=self.domain.grant_table_address,
            grant_count=GRANT_ENTRIES,
            ops=channel.native_ops,
            port=channel.port,
            backend_domid=self.backend_domid,
            handle=self.devid,
            persistent=self._persistent,
            first_index=self._first_index,
        )
        nodes = {"event-channel": str(channel.port), "protocol": self.protocol}
        nodes["feature-persistent"] = "1" if self._want_persistent else "0"
        if order == 0:
            nodes["ring-ref"] = str(refs[0])
        else:
            nodes["ring-page-order"] = str(order)
            nodes |= {f"ring-ref{index}": str(ref) for index, ref in enumerate(refs)}
        return nodes

    def _publish(self, nodes: dict[str, str], tx: int) -> None:
        for name in ("ring-ref", "ring-page-order"):
            # Left by a connection with another size of ring.
            if name not in nodes and self._xs.read_or_none(f"{self.path}/{name}", tx) is not None:
                self._xs.rm(f"{self.path}/{name}", tx)
        self._xs.write_many({f"{self.path}/{name}": value for name, value in nodes.items()}, tx)

    def _take_figures(self) -> None:
        base = self.backend_path
        names = ("sectors", "sector-size", "info", "feature-flush-cache", "feature-discard")
        nodes = dict(zip(names, self._xs.read_many([f"{base}/{n}" for n in names]), strict=True))
        sectors = _number(nodes["sectors"])
        if sectors is None or self.ring is None:
            # Connected without figures, or before we shared anything: not our turn yet.
            return
        self.info = DiskInfo(
            sectors=sectors,
            sector_size=_number(nodes["sector-size"]) or SECTOR,
            readonly=bool((_number(nodes["info"]) or 0) & 4),
            flush=nodes["feature-flush-cache"] == b"1",
            discard=nodes["feature-discard"] == b"1",
            persistent=self._persistent,
            slots=self.ring.slots,
        )
        if self.state is not XenbusState.CONNECTED:
            self._write_state(XenbusState.CONNECTED)

    def _close_down(self) -> None:
        self._stop_io()
        if self.state is not XenbusState.CLOSING:
            self._write_state(XenbusState.CLOSING)
        self._tear_down()
        self._write_state(XenbusState.CLOSED)

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
        ring, self.ring = self.ring, None
        self.leaving = False
        if ring is not None:
            ring.close()
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
        self._pages.retire()

    # Helpers

    def _wait(self, reached: Callable[[], bool], timeout: float, what: str) -> None:
        deadline = time.monotonic() + timeout
        self.advance()
        while not reached():
            left = deadline - time.monotonic()
            if self.gone:
                raise HostError(f"{what} disk: {self.path}: it was unplugged")
            if left <= 0 or self._xs.wait_event(left) is None:
                self.advance()
                if reached():
                    return
                raise HostError(
                    f"{what} disk: {self.path}: not within {timeout:g} s "
                    f"(frontend {self.state}, backend {self.backend_state})"
                )
            self.advance()

    def _read_state(self, path: str) -> XenbusState:
        try:
            return XenbusState.from_wire(self._xs.read_or_none(path))
        except AccessDeniedError:
            # That is how xenstored answers for a node that is not there in a directory which we
            # may not list: the backend's own directory is gone.
            return XenbusState.UNKNOWN

    def _write_state(self, state: XenbusState) -> None:
        self._xs.write(f"{self.path}/state", state.to_wire())
        self.state = state


def _number(value: bytes | None) -> int | None:
    """A decimal number of the backend's; None for anything else."""
    return int(value) if value is not None and value.isdigit() else None
