# SPDX-License-Identifier: MIT
"""The watches of the supervisor, and which of them an event belongs to.

Per enabled type one watch on its backend directory for all domains (S18), per device one on its
frontend directory, and one each for domains that come and go. The token says which one it is. The
domain that is passed along is the one whose turn an event takes, so that no guest can delay another
one's events.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from shared.device_id import DeviceId
from shared.errors import HostError
from shared.xenstore.errors import AlreadyExistsError, ConnectionLostError
from supervisor.xenstore.paths import parse_backend, type_path
from supervisor.xenstore.store import Store

_log = logging.getLogger("xenbackd.scanner")

RELEASE: Final = "@releaseDomain"
INTRODUCE: Final = "@introduceDomain"
TYPE: Final = "type"
DEVICE: Final = "device"


class Watches:
    """Sets and removes them; each is set once, however often it is asked for."""

    def __init__(self, store: Store, own_path: str) -> None:
        self._store = store
        self._own_path = own_path
        self._types: set[str] = set()

    async def domains(self) -> None:
        """Watch domains come and go, where we may.

        Raises:
            ConnectionLostError: xenstored is gone.
        """
        for special in (RELEASE, INTRODUCE):
            try:
                await self._watch(special, special, 0)
            except ConnectionLostError:
                raise
            except HostError as error:
                # Outside dom0 it needs a permission; the backend directories tell, only later.
                _log.warning("watch on %s: %s: dead domains are noticed later", special, error)

    async def type(self, type_: str) -> None:
        """Watch all backends of a type.

        Raises:
            HostError: the watch cannot be set.
        """
        if type_ in self._types:
            return
        root = type_path(self._own_path, type_)

        def domain_of(changed: str) -> int:
            where = parse_backend(root, changed)
            return 0 if where is None or where.domid is None else where.domid

        await self._watch(root, f"{TYPE}:{type_}", domain_of)
        self._types.add(type_)

    async def device(self, device: DeviceId, frontend_path: str) -> None:
        """Watch a device's frontend.

        Raises:
            HostError: the watch cannot be set.
        """
        await self._watch(frontend_path, f"{DEVICE}:{device}", device.domid)

    async def drop(self, device: DeviceId, frontend_path: str) -> None:
        """The device is over, or is not taken up after all."""
        try:
            await self._store.unwatch(frontend_path, f"{DEVICE}:{device}")
        except HostError as error:
            _log.debug("%s", error)

    async def _watch(self, path: str, token: str, domain: int | Callable[[str], int]) -> None:
        try:
            await self._store.watch(path, token, domain)
        except AlreadyExistsError:
            return
