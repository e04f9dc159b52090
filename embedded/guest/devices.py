# SPDX-License-Identifier: MIT
"""The devices of a guest: frontends that come and go with the directories below `device`.

All of it belongs to the main thread of the guest, except `find`, `describe` and `wait`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from embedded.domain import Domain
from embedded.guest.control import GuestDevice
from embedded.guest.frontend import Frontend
from embedded.guest.side import GuestSide
from embedded.toolstack import home
from shared.errors import BlamedError, ConfigError
from shared.xenstore.blocking import BlockingXenstore
from shared.xenstore.errors import ConnectionLostError, NoEntryError

_ALL: Final = "devices"
"""Token of the watch on all of them; those of single devices are `kind/devid`."""

log = logging.getLogger("guest")


class _Key(NamedTuple):
    """Which device."""

    kind: str
    devid: int

    @classmethod
    def parse(cls, kind: str, devid: str) -> _Key | None:
        return cls(kind, int(devid)) if devid.isascii() and devid.isdecimal() else None


class Devices:
    """Frontends of any types, by kind and device number."""

    def __init__(
        self,
        domain: Domain,
        xs: BlockingXenstore,
        sides: Mapping[str, GuestSide],
        protocol: str,
    ) -> None:
        """`sides` by kind; a device whose kind is not among them has no driver in this guest."""
        self._domain = domain
        self._xs = xs
        self._sides = sides
        self._protocol = protocol
        self._base = f"{home(domain.domid)}/device"
        self._watching = False
        self._frontends: dict[_Key, Frontend[Any]] = {}
        self._gone: list[Frontend[Any]] = []
        self._errors: dict[_Key, str] = {}
        self._changed = threading.Condition()

    # Main thread

    def take_events(self) -> None:
        """Handle all watch events that are there; the first call begins watching.

        Raises:
            HostError: xenstored is away.
        """
        if not self._watching:
            self._xs.watch(self._base, _ALL)
            self._watching = True
        # What is done about an event reads xenstore, and that may take further events off the
        # connection: none may be left when the caller waits for its descriptor again.
        while (touched := self._collect()) is not None:
            for key in sorted(touched):
                self._advance(key)

    def _collect(self) -> set[_Key] | None:
        """Devices that the events which are there concern; None if there are no events."""
        touched: set[_Key] = set()
        kinds: set[str] = set()
        any_event = False
        while (event := self._xs.wait_event(0)) is not None:
            any_event = True
            if event.token != _ALL:
                kind, _, devid = event.token.partition("/")
                touched.add(_Key(kind, int(devid)))
                continue
            # [], [kind], [kind, devid] or further down.
            below = event.path.removeprefix(self._base).split("/")[1:]
            key = _Key.parse(*below[:2]) if len(below) > 1 else None
            if not below:
                kinds.update(self._sides)
            elif key is None or key not in self._frontends:
                kinds.add(below[0])
            elif len(below) == 2:
                touched.add(key)
            # Events of nodes inside a known device are mostly our own writes.
        for kind in kinds & self._sides.keys():
            touched |= self._scan(kind)
        return touched if any_event else None

    def look_again(self) -> None:
        """Look at every device, as after xenstored was away; raises HostError."""
        for kind in self._sides:
            self._scan(kind)
        for key in list(self._frontends):
            self._advance(key)

    def restart_all(self, *, orderly: bool, timeout: float) -> None:
        """Connect every device again, closed first if `orderly`; raises HostError."""
        if orderly:
            self.close_all(timeout)
        for key, frontend in self._present():
            if frontend.gone:
                continue
            with self._blamed_on(key):
                frontend.restart()
            self._advance(key)

    def close_all(self, timeout: float) -> None:
        """Close every device; a backend that does not follow is left behind, with a log line."""
        deadline = time.monotonic() + timeout
        for key, frontend in self._present():
            with self._blamed_on(key):
                frontend.begin_close()
        for key, frontend in self._present():
            with self._blamed_on(key):
                frontend.close(max(0.1, deadline - time.monotonic()))

    def release(self) -> None:
        """Drop all frontends as they are."""
        for frontend in [*self._frontends.values(), *self._gone]:
            frontend.release()
        self._frontends.clear()
        self._gone.clear()

    def _present(self) -> list[tuple[_Key, Frontend[Any]]]:
        return list(self._frontends.items())

    def _scan(self, kind: str) -> set[_Key]:
        """Make frontends for new directories of a kind; returns which."""
        try:
            names = self._xs.directory(f"{self._base}/{kind}")
        except NoEntryError:
            names = []
        keys = {key for name in names if (key := _Key.parse(kind, name)) is not None}
        new = keys - self._frontends.keys()
        for key in new:
            side = self._sides[kind]
            self._frontends[key] = side.frontend(self._domain, self._xs, key.devid, self._protocol)
        return new

    def _advance(self, key: _Key) -> None:
        frontend = self._frontends.get(key)
        if frontend is None:
            return
        before = frontend.state
        self._errors.pop(key, None)
        # A directory that is only half there, or just going: its next event decides.
        with self._blamed_on(key):
            frontend.advance()
        if frontend.state is not before:
            log.info("%s: %s -> %s", frontend.token, before, frontend.state)
        if frontend.gone:
            self._frontends.pop(key)
            self._gone.append(frontend)
        self._gone = [one for one in self._gone if not self._let_go(one)]
        with self._changed:
            self._changed.notify_all()

    def _let_go(self, frontend: Frontend[Any]) -> bool:
        """Whether an unplugged device's pages are all back."""
        frontend.reclaim()
        if frontend.leaked_pages:
            return False
        frontend.release()
        return True

    @contextlib.contextmanager
    def _blamed_on(self, key: _Key) -> Iterator[None]:
        """Errors inside concern this device alone, unless xenstored is away."""
        try:
            yield
        except ConnectionLostError:
            raise
        except BlamedError as error:
            self._errors[key] = str(error)
            log.error("%s/%d: %s", *key, error)

    # Any thread

    def find(self, kind: str, name: str) -> tuple[GuestSide, Frontend[Any]]:
        """A device by its name or number, with its side; raises ConfigError."""
        side = self._sides.get(kind)
        if side is None:
            raise ConfigError(f"device {name}: kind {kind!r}: this guest has no driver for it")
        key = _Key.parse(kind, name) or _Key(kind, side.number_of(name))
        frontend = self._frontends.get(key)
        if frontend is None:
            raise ConfigError(
                f"{side.noun} {name}: domain {self._domain.domid}: it has no such {side.noun}"
            )
        return side, frontend

    def connected(self) -> int | None:
        """How many devices are connected; None while some are on their way to it."""
        states = [frontend.connected for _, frontend in self._present()]
        return len(states) if all(states) else None

    def wait(self, count: int | None, timeout: float) -> bool:
        """Wait until all devices are connected and there are `count` (None: any number)."""

        def reached() -> bool:
            connected = self.connected()
            return connected is not None and count in (None, connected)

        with self._changed:
            return self._changed.wait_for(reached, timeout)

    def describe(self) -> list[GuestDevice]:
        """All devices, for people."""
        return [self._describe(key, frontend) for key, frontend in sorted(self._present())]

    def _describe(self, key: _Key, frontend: Frontend[Any]) -> GuestDevice:
        return GuestDevice(
            kind=key.kind,
            name=frontend.name,
            devid=key.devid,
            state=str(frontend.state),
            backend_state=str(frontend.backend_state),
            backend=frontend.backend_path,
            connected=frontend.connected,
            error=self._errors.get(key, ""),
            details=dict(self._sides[key.kind].details(frontend)),
        )
