# SPDX-License-Identifier: MIT
"""Keeps a session with xenstored: opens it, and opens another when it breaks.

Requests in flight fail at once. In the background the keeper tries to open a new session, at
growing intervals. The session is in use once all watches are registered with it; then the owner is
told. Until then there is none.

The keeper does not know what is asked over a session.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from shared.errors import HostError
from shared.xenstore.errors import ConnectionLostError, XenstoreError
from shared.xenstore.session import Session
from shared.xenstore.transport import Target
from shared.xenstore.watches import WatchTable
from shared.xenstore.wire import Op, join_strings

RECONNECT_FIRST: Final = 0.1
"""Seconds from the loss of the connection to the first attempt; doubled after each attempt."""
RECONNECT_MAX: Final = 5.0
"""Seconds between two attempts at most."""

log = logging.getLogger(__name__)


class SessionKeeper:
    """One session at a time.

    Args:
        target: what to connect to.
        timeout: seconds that one request may take before the connection counts as lost.
        watches: the watches of a new session.
        on_event: called with path and token of each watch event.
        on_lost: called with the cause when the session in use died.
        on_back: awaited when a new session is in use.
    """

    def __init__(
        self,
        target: Target,
        *,
        timeout: float,
        watches: WatchTable,
        on_event: Callable[[str, str], None],
        on_lost: Callable[[str], None],
        on_back: Callable[[], Awaitable[None]],
    ) -> None:
        self.target = target
        self.session: Session | None = None
        """The session in use; None while there is none."""
        self.reconnects = 0
        self._timeout = timeout
        self._watches = watches
        self._on_event = on_event
        self._on_lost = on_lost
        self._on_back = on_back
        self._next_id = 1
        self._requests = 0
        self._broken = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def requests(self) -> int:
        """Requests sent in all sessions together."""
        return self._requests + (self.session.requests if self.session else 0)

    def open(self) -> None:
        """Open the first session, and keep one until `close`. Idempotent.

        Raises:
            HostError: can't connect; names the path and the remedy.
        """
        if self._keeper is not None:
            return
        self.session = self._open_session()
        self._keeper = asyncio.create_task(self._keep(), name="xenstore-keeper")

    async def close(self) -> None:
        """End the session for good. Requests in flight fail. Idempotent."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None and keeper is not asyncio.current_task():
            keeper.cancel()
            await asyncio.wait([keeper])
        self._leave_session("the connection was closed")

    def _open_session(self) -> Session:
        return Session(
            self.target,
            timeout=self._timeout,
            on_event=self._on_event,
            on_lost=self._session_died,
            first_id=self._next_id,
        )

    def _leave_session(self, cause: str) -> None:
        session, self.session = self.session, None
        if session is not None:
            session.close(cause)
            self._next_id = session.next_id
            self._requests += session.requests

    def _session_died(self, cause: str) -> None:
        """The session in use died, or the one that was being prepared."""
        self._broken.set()
        if self.session is None:
            return
        self._leave_session(cause)
        log.error("xenstore: %s: connection lost: %s", self.target.path, cause)
        self._on_lost(cause)

    async def _keep(self) -> None:
        while True:
            await self._broken.wait()
            await self._reconnect()
            self.reconnects += 1
            log.info("xenstore: %s: connected again", self.target.path)
            try:
                await self._on_back()
            except ConnectionLostError:
                continue  # Lost again meanwhile: it is called again after the next reconnect.
            except Exception:
                # A mistake of the owner must not cost the connection.
                log.exception("xenstore: the rescan after reconnecting failed")

    async def _reconnect(self) -> None:
        """Return with a new session in use, its watches registered."""
        delay = RECONNECT_FIRST
        while True:
            await asyncio.sleep(delay)
            delay = min(delay * 2, RECONNECT_MAX)
            self._broken.clear()
            try:
                session = self._open_session()
            except HostError as error:
                log.debug("%s", error)
                continue
            try:
                await self._register_watches(session)
            except ConnectionLostError as error:
                log.debug("%s", error)
                session.close()  # it still lives if there were more watches than may be in flight
                continue
            except BaseException:
                session.close()
                raise
            if self._broken.is_set():
                continue  # It died right after the last watch was registered.
            self.session = session
            return

    async def _register_watches(self, session: Session) -> None:
        """Register all watches with a new session, and take back those removed meanwhile."""
        watches = self._watches.all()
        payloads = [join_strings(Op.WATCH, watch.path, watch.token) for watch in watches]
        outcomes = await asyncio.gather(
            *(session.request(Op.WATCH, payload) for payload in payloads), return_exceptions=True
        )
        for watch, payload, outcome in zip(watches, payloads, outcomes, strict=True):
            if isinstance(outcome, ConnectionLostError):
                raise outcome
            if isinstance(outcome, XenstoreError):
                log.error("xenstore: watch not registered again: %s", outcome)
            elif watch not in self._watches:
                session.send(Op.UNWATCH, payload)
