# SPDX-License-Identifier: MIT
"""The disks of a guest: frontends that come and go with the directories below device/vbd.

All of it belongs to the main thread of the guest, but for `find`, `describe` and `wait`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import Final

from embedded.domain import Domain
from embedded.guest.control import GuestDisk
from shared.errors import BlamedError, ConfigError
from shared.xenbus import XenbusState
from shared.xenstore.blocking import BlockingXenstore
from shared.xenstore.errors import ConnectionLostError, NoEntryError
from worker.devices.block.guest.blkfront import BlockFrontend
from worker.devices.block.guest.disk import device_number
from worker.devices.block.guest.ring import SECTOR

_DISKS: Final = "disks"
"""Token of the watch on all of them; those of single disks are vbd-<devid>."""

log = logging.getLogger("guest")


class Disks:
    """Frontends by device number."""

    def __init__(self, domain: Domain, xs: BlockingXenstore, protocol: str) -> None:
        self._domain = domain
        self._xs = xs
        self._protocol = protocol
        self._base = f"/local/domain/{domain.domid}/device/vbd"
        self._watching = False
        self._frontends: dict[int, BlockFrontend] = {}
        self._gone: list[BlockFrontend] = []
        self._errors: dict[int, str] = {}
        self._changed = threading.Condition()

    # Main thread

    def take_events(self) -> None:
        """Handle all watch events that are there; the first call begins watching.

        Raises:
            HostError: xenstored is away.
        """
        if not self._watching:
            self._xs.watch(self._base, _DISKS)
            self._watching = True
        # What is done about an event reads xenstore, and that may take further events off the
        # connection: none may be left when the caller waits for its descriptor again.
        while (touched := self._collect()) is not None:
            for devid in touched:
                self._advance(devid)

    def _collect(self) -> set[int] | None:
        """Disks that the events which are there concern; None if there are no events."""
        touched: set[int] = set()
        scan = any_event = False
        while (event := self._xs.wait_event(0)) is not None:
            any_event = True
            if event.token != _DISKS:
                touched.add(int(event.token.removeprefix("vbd-")))
                continue
            # Events of nodes inside a known disk are mostly our own writes.
            below = event.path.removeprefix(self._base).strip("/").split("/")
            devid = int(below[0]) if below[0].isdigit() else None
            if devid is None or devid not in self._frontends:
                scan = True
            elif len(below) == 1:
                touched.add(devid)
        if scan:
            touched |= self._scan()
        return touched if any_event else None

    def look_again(self) -> None:
        """Look at every disk, as after xenstored was away; raises HostError."""
        self._scan()
        for devid in list(self._frontends):
            self._advance(devid)

    def restart_all(self, *, orderly: bool, timeout: float) -> None:
        """Connect every disk anew, closed first if `orderly`; raises HostError."""
        if orderly:
            self.close_all(timeout)
        for frontend in self._present():
            if frontend.gone:
                continue
            with self._blamed_on(frontend):
                frontend.restart()
            self._advance(frontend.devid)

    def close_all(self, timeout: float) -> None:
        """Close every disk; a backend that does not follow is left behind, with a log line."""
        deadline = time.monotonic() + timeout
        for frontend in self._present():
            with self._blamed_on(frontend):
                frontend.begin_close()
        for frontend in self._present():
            with self._blamed_on(frontend):
                frontend.close(max(0.1, deadline - time.monotonic()))

    def release(self) -> None:
        """Drop all frontends as they are."""
        for frontend in [*self._frontends.values(), *self._gone]:
            frontend.release()
        self._frontends.clear()
        self._gone.clear()

    def _present(self) -> list[BlockFrontend]:
        return list(self._frontends.values())

    def _scan(self) -> set[int]:
        """Make frontends for new directories; returns their device numbers."""
        try:
            names = self._xs.directory(self._base)
        except NoEntryError:
            names = []
        new = {int(name) for name in names if name.isdigit()} - set(self._frontends)
        for devid in new:
            self._frontends[devid] = BlockFrontend(
                self._domain, self._xs, devid, protocol=self._protocol
            )
        return new

    def _advance(self, devid: int) -> None:
        frontend = self._frontends.get(devid)
        if frontend is None:
            return
        before = frontend.state
        self._errors.pop(devid, None)
        # A directory that is only half there, or just going: its next event decides.
        with self._blamed_on(frontend):
            frontend.advance()
        state = frontend.state
        if state is not before:
            log.info("disk %d: %s -> %s", devid, before, state)
        if frontend.gone:
            self._frontends.pop(devid)
            self._gone.append(frontend)
        self._gone = [one for one in self._gone if not self._let_go(one)]
        with self._changed:
            self._changed.notify_all()

    def _let_go(self, frontend: BlockFrontend) -> bool:
        """Whether an unplugged disk's pages are all back."""
        frontend.reclaim()
        if frontend.leaked_pages:
            return False
        frontend.release()
        return True

    @contextlib.contextmanager
    def _blamed_on(self, frontend: BlockFrontend) -> Iterator[None]:
        """Errors inside concern this disk alone, unless xenstored is away."""
        try:
            yield
        except ConnectionLostError:
            raise
        except BlamedError as error:
            self._errors[frontend.devid] = str(error)
            log.error("disk %d: %s", frontend.devid, error)

    # Any thread

    def find(self, name: str) -> BlockFrontend:
        """The disk of that vdev or device number; raises ConfigError."""
        devid = int(name) if name.isdigit() else device_number(name)
        frontend = self._frontends.get(devid)
        if frontend is None:
            raise ConfigError(f"disk {name}: domain {self._domain.domid}: it has no such disk")
        return frontend

    def connected(self) -> int | None:
        """How many disks are Connected; None while some are on their way to it."""
        states = [frontend.state for frontend in self._present()]
        if all(state is XenbusState.CONNECTED for state in states):
            return len(states)
        return None

    def wait(self, count: int | None, timeout: float) -> bool:
        """Wait until all disks are Connected and there are `count` (None: however many)."""

        def reached() -> bool:
            connected = self.connected()
            return connected is not None and count in (None, connected)

        with self._changed:
            return self._changed.wait_for(reached, timeout)

    def describe(self) -> list[GuestDisk]:
        """All disks, for people."""
        return [self._describe(one) for one in sorted(self._present(), key=lambda one: one.devid)]

    def _describe(self, frontend: BlockFrontend) -> GuestDisk:
        info, ring = frontend.info, frontend.ring
        return GuestDisk(
            vdev=frontend.vdev,
            devid=frontend.devid,
            state=str(frontend.state),
            backend_state=str(frontend.backend_state),
            backend=frontend.backend_path,
            size=info.sectors * SECTOR if info else 0,
            sector_size=info.sector_size if info else 0,
            readonly=info.readonly if info else False,
            slots=info.slots if info else 0,
            persistent=info.persistent if info else False,
            in_flight=ring.in_flight if ring else 0,
            error=self._errors.get(frontend.devid, ""),
        )
