# SPDX-License-Identifier: MIT
"""All writes of the supervisor to xenstore: state, nodes of the worker, errors.

Invariants:

- State and the nodes that belong to it are written in one transaction, so that a frontend never
  sees half of them.
- Nothing is created for a device that is gone: writing a node would bring its whole directory
  back. So each transaction first checks that the directory is still the one that was taken up.
- What a worker found out at `init` is written only into the directory that it was given then.
- A state that the toolstack forced (Closing, to detach a disk) is not overwritten because its watch
  event has not come yet: the same check compares `state` with what it is believed to be.
- Errors are where tools look: `error/backend/…/error` as the kernel's backends write it
  (drivers/xen/xenbus/xenbus_client.c, xenbus_va_dev_error), and `hotplug-error` with
  `hotplug-status = error` for a toolstack that waits for the device (libxl).
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from shared.device_id import DeviceId
from shared.errors import Blame, HostError
from shared.limits import NODE_VALUE_MAX
from shared.xenbus import XenbusState
from shared.xenstore.errors import AccessDeniedError, NoEntryError
from supervisor.xenstore.paths import backend_path, error_path
from supervisor.xenstore.probe import is_true
from supervisor.xenstore.store import Store

_ERRNO: Final = {
    Blame.GUEST: errno.EPROTO,
    Blame.OPERATOR: errno.EINVAL,
    Blame.HOST: errno.EIO,
    Blame.US: errno.EFAULT,
}
"""The kernel writes "<negative errno> <text>"; tools read the number."""

FORCED: Final = frozenset({XenbusState.INITIALISING, XenbusState.CLOSING, XenbusState.CLOSED})
"""States that somebody else may give any backend. Any other unexpected state comes from a write of
our own whose answer was lost."""


class OvertakenError(HostError):
    """The backend directory has changed; nothing was written, and it must be read again.

    It was removed, is another device's, or is in a state that the toolstack forced.
    """


class RemadeError(OvertakenError):
    """The backend directory is not the one that its worker was initialised from: it was made again.

    While the state is Initialising only that tells. It may be another guest's with the same domain
    id, whose disk is another one.
    """


_OURS: Final = frozenset({"state", "online", "hotplug-status", "hotplug-error"})
"""Nodes of a backend directory that change without its being another one."""


class Publisher:
    """Writes for the devices below one own domain path."""

    def __init__(self, store: Store, own_path: str) -> None:
        self._store = store
        self._own = own_path

    async def write_state(
        self,
        device: DeviceId,
        frontend_path: str,
        state: XenbusState,
        nodes: Mapping[str, bytes],
        *,
        before: XenbusState,
        hotplug: bool,
        made_from: Mapping[str, bytes] = MappingProxyType({}),
        forced: frozenset[XenbusState] = FORCED,
    ) -> None:
        """Write `state` and all that belongs to it, or nothing (S4, S12).

        `before` is the state that should be there; of others, those in `forced` are respected.
        `made_from` are the nodes of the backend directory that the written nodes follow from.

        Raises:
            RemadeError: one of `made_from` has another value now.
            OvertakenError: the device is gone, or it was given another state.
            XenstoreError: it cannot be written.
        """
        await self._write(
            device,
            frontend_path,
            nodes,
            state=state,
            before=before,
            hotplug=hotplug,
            made_from=made_from,
            forced=forced,
        )

    async def write_nodes(
        self,
        device: DeviceId,
        frontend_path: str,
        nodes: Mapping[str, bytes],
        *,
        state: XenbusState | None = None,
    ) -> None:
        """Write nodes without a change of state. `state`, if given, is written again.

        Raises:
            OvertakenError, XenstoreError: as `write_state`.
        """
        await self._write(device, frontend_path, nodes, state=state, before=state, hotplug=False)

    async def _write(
        self,
        device: DeviceId,
        frontend_path: str,
        nodes: Mapping[str, bytes],
        *,
        state: XenbusState | None,
        before: XenbusState | None,
        hotplug: bool,
        made_from: Mapping[str, bytes] = MappingProxyType({}),
        forced: frozenset[XenbusState] = FORCED,
    ) -> None:
        directory = backend_path(self._own, device)

        everything = dict(nodes)
        if hotplug:
            everything["hotplug-status"] = b"connected"
        # Last, so that the watch event for it comes after the others.
        if state is not None:
            everything["state"] = state.to_wire()

        async def body(tx: int) -> None:
            await self._check_there(tx, device, directory, frontend_path)
            if before is not None:
                await self._check_state(tx, device, directory, before, forced)
            await self._check_same(tx, device, directory, made_from)
            await self._write_all(tx, directory, everything)
            if hotplug:
                # Left by an earlier attempt that failed.
                with contextlib.suppress(NoEntryError):
                    await self._store.rm(f"{directory}/hotplug-error", tx)

        await self._store.transact(body)

    async def write_error(
        self, device: DeviceId, frontend_path: str | None, blame: Blame, text: str, *, hotplug: bool
    ) -> None:
        """Write what is wrong to xenstore; with `hotplug` also for a waiting toolstack.

        `frontend_path` is None if the device's frontend is not known.

        Raises:
            OvertakenError, XenstoreError: as `write_state`.
        """
        directory = backend_path(self._own, device)
        line = f"-{_ERRNO[blame]} {text}".encode("utf-8", "replace")[:NODE_VALUE_MAX]

        async def body(tx: int) -> None:
            await self._check_there(tx, device, directory, frontend_path)
            await self._store.write(error_path(self._own, device), line, tx)
            if hotplug:
                message = text.encode("utf-8", "replace")[:NODE_VALUE_MAX]
                nodes = {"hotplug-error": message, "hotplug-status": b"error"}
                await self._write_all(tx, directory, nodes)

        await self._store.transact(body)

    async def remove(self, device: DeviceId, frontend_path: str) -> None:
        """Remove the directory of a device that is Closed and not online, and an empty parent.

        Raises:
            OvertakenError, XenstoreError: as `write_state`.
        """
        directory = backend_path(self._own, device)
        above = directory.rpartition("/")[0]

        async def body(tx: int) -> None:
            await self._check_there(tx, device, directory, frontend_path)
            state, online = await self._store.read_many(
                (f"{directory}/{name}" for name in ("state", "online")), tx
            )
            unplugged = online is None or not is_true(online)
            if XenbusState.from_wire(state) is not XenbusState.CLOSED or not unplugged:
                raise OvertakenError(f"remove: {device}: it is in use again")
            await self._store.rm(directory, tx)
            # libxl makes the parent as dom0's own, and then we may not remove it.
            with contextlib.suppress(NoEntryError, AccessDeniedError):
                if not await self._store.directory(above, tx):
                    await self._store.rm(above, tx)

        await self._store.transact(body)

    async def clear_error(self, device: DeviceId) -> None:
        """Remove the error node, if there is one, with the directories that were made for it.

        Raises:
            XenstoreError: it cannot be removed.
        """
        directory = error_path(self._own, device).rpartition("/")[0]
        above = directory.rpartition("/")[0]

        async def body(tx: int) -> None:
            if not await self._store.directory(above, tx):
                await self._store.rm(above, tx)

        with contextlib.suppress(NoEntryError):
            await self._store.rm(directory)
            # One left for each guest that was ever at fault would use up a driver domain's quota.
            await self._store.transact(body)

    async def _write_all(self, tx: int, directory: str, nodes: Mapping[str, bytes]) -> None:
        await self._store.write_many(
            {f"{directory}/{name}": value for name, value in nodes.items()}, tx
        )

    async def _check_there(
        self, tx: int, device: DeviceId, directory: str, frontend_path: str | None
    ) -> None:
        if frontend_path is None:
            there = await self._store.read_or_none(f"{directory}/state", tx) is not None
        else:
            frontend = await self._store.read_or_none(f"{directory}/frontend", tx)
            there = frontend == frontend_path.encode()
        if not there:
            raise OvertakenError(f"write: {device}: {directory} is gone or another device's")

    async def _check_same(
        self, tx: int, device: DeviceId, directory: str, made_from: Mapping[str, bytes]
    ) -> None:
        names = [name for name in made_from if name not in _OURS]
        found = await self._store.read_many((f"{directory}/{name}" for name in names), tx)
        for name, value in zip(names, found, strict=True):
            if value != made_from[name]:
                raise RemadeError(f"write: {device}: {directory} was made again: {name} differs")

    async def _check_state(
        self,
        tx: int,
        device: DeviceId,
        directory: str,
        before: XenbusState,
        forced: frozenset[XenbusState],
    ) -> None:
        found = XenbusState.from_wire(await self._store.read_or_none(f"{directory}/state", tx))
        if found is not before and found in forced:
            raise OvertakenError(f"write: {device}: state is {found}, not {before} any more")
