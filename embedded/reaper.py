# SPDX-License-Identifier: MIT
"""What happens in xenstore when a domain has died: xenstored is told, the leftovers are removed.

As with libxl's on_crash=destroy, but done by the host, so that a guest that was killed leaves
nothing behind. Domains are taken one after another; what fails (xenstored is away) is tried again
until it works, with growing pauses, and at once when xenstored is back. Nothing is forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from shared.errors import HostError
from shared.xenstore.blocking import BlockingXenstore

RETRY_FIRST: Final = 0.2
RETRY_MAX: Final = 5.0
"""Seconds between attempts, doubling from the first to the last."""

_log = logging.getLogger(__name__)


class Reaper:
    """Removes dead domains from xenstore.

    Args:
        xenstore_socket: of the privileged domain.
        reaped: called (on the loop) with each id that is done.
    """

    def __init__(self, xenstore_socket: Path, reaped: Callable[[int], None]) -> None:
        self._socket = xenstore_socket
        self._reaped = reaped
        self._dead: asyncio.Queue[int] = asyncio.Queue()
        self._store_is_back = asyncio.Event()

    def add(self, domid: int) -> None:
        """A domain died."""
        self._dead.put_nowait(domid)

    def retry_now(self) -> None:
        """xenstored was started again: do not wait any longer."""
        self._store_is_back.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            domid = await self._dead.get()
            pause = RETRY_FIRST
            while not await self._attempt(domid):
                self._store_is_back.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._store_is_back.wait()
                pause = min(2 * pause, RETRY_MAX)
            self._reaped(domid)

    async def _attempt(self, domid: int) -> bool:
        try:
            # Its calls wait for xenstored, and the hypervisor must go on meanwhile.
            await asyncio.to_thread(remove_from_xenstore, self._socket, domid)
        except HostError as error:
            _log.warning("remove domain %d: xenstore: %s", domid, error)
            return False
        return True


def remove_from_xenstore(xenstore_socket: Path, domid: int) -> None:
    """Tell xenstored that a domain is gone and remove what is left of it there.

    Raises:
        HostError: xenstored is away or refused; may be called again.
    """
    # Here, so that the server starts without the toolstack.
    from embedded.toolstack import remove_domain

    with BlockingXenstore(xenstore_socket) as xenstore:
        if xenstore.is_domain_introduced(domid):
            xenstore.release(domid)
        remove_domain(xenstore, domid)
