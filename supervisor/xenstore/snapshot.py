# SPDX-License-Identifier: MIT
"""Reads a device directory as a whole, for the worker.

Bounds: a frontend may fill its directory with anything. So at most `SNAPSHOT_NODES_MAX` nodes of
`SNAPSHOT_BYTES_MAX` bytes in `DEPTH_MAX` levels are read, and exceeding a bound is that guest's
fault. All values are as the guest left them; the worker validates them.

Only a node with an empty value is looked into for children. xenstored makes missing parents with an
empty value, and no device protocol gives a value to a node that has children; looking into every
node would double the requests of every start.
"""

from __future__ import annotations

import asyncio
from typing import Final

from shared.errors import BlamedError, ConfigError, GuestFault
from shared.limits import (
    NODE_NAME_MAX,
    NODE_VALUE_MAX,
    SNAPSHOT_BYTES_MAX,
    SNAPSHOT_NODES_MAX,
)
from shared.messages import Nodes
from shared.xenstore.errors import AccessDeniedError, ConnectionLostError, NoEntryError
from supervisor.xenstore.store import Store

DEPTH_MAX: Final = 4
"""Levels below a device directory; sound cards use three, nothing more."""

_ABSENT: Final = (NoEntryError, AccessDeniedError)


async def read_backend(store: Store, directory: str) -> Nodes:
    """Nodes of a backend directory; empty if it is not there.

    Raises:
        ConfigError: out of bounds; only the toolstack writes there, not the guest.
        XenstoreError: it cannot be read.
    """
    try:
        return await _read(store, directory)
    except _OutOfBoundsError as error:
        raise ConfigError(f"backend directory: {directory}: {error}") from error


async def read_frontend(store: Store, directory: str) -> Nodes:
    """Nodes of a frontend directory; empty if it is not there.

    Raises:
        GuestFault: out of bounds.
        XenstoreError: it cannot be read.
    """
    try:
        return await _read(store, directory)
    except _OutOfBoundsError as error:
        raise GuestFault(f"frontend directory: {directory}: {error}") from error


async def read_both(
    store: Store, backend: str, frontend: str | None
) -> tuple[Nodes, Nodes, BlamedError | None]:
    """Nodes of both directories (of the second only if it is named), or why there are none.

    Raises:
        ConnectionLostError: xenstored is gone, which is not the fault of any device.
    """
    try:
        nodes = await read_backend(store, backend)
        return nodes, {} if frontend is None else await read_frontend(store, frontend), None
    except ConnectionLostError:
        raise
    except BlamedError as error:
        return {}, {}, error


class _OutOfBoundsError(Exception):
    pass


async def _read(store: Store, root: str) -> Nodes:
    untrusted_nodes: Nodes = {}
    size = 0
    level = [""]
    for _ in range(DEPTH_MAX):
        if len(level) == 1:
            listings = [await _list(store, root + level[0])]
        else:
            listings = await asyncio.gather(*(_list(store, root + parent) for parent in level))
        names = [
            f"{parent}/{name}"
            for parent, children in zip(level, listings, strict=True)
            for name in children
        ]
        if len(untrusted_nodes) + len(names) > SNAPSHOT_NODES_MAX:
            raise _OutOfBoundsError(f"more than {SNAPSHOT_NODES_MAX} nodes")
        # A node that the guest does not let us read any more counts as absent.
        values = await store.read_many((root + name for name in names), absent=_ABSENT)
        level = []
        for name, value in zip(names, values, strict=True):
            if value is None:  # removed since it was listed
                continue
            if len(name) - 1 > NODE_NAME_MAX or len(value) > NODE_VALUE_MAX:
                raise _OutOfBoundsError(f"node {name[1:33]!r} is too long")
            size += len(name) + len(value)
            if size > SNAPSHOT_BYTES_MAX:
                raise _OutOfBoundsError(f"more than {SNAPSHOT_BYTES_MAX} bytes of nodes")
            untrusted_nodes[name[1:]] = value
            if not value:
                level.append(name)
        if not level:
            break
    return untrusted_nodes


async def _list(store: Store, path: str) -> list[str]:
    try:
        return list(await store.directory(path))
    except _ABSENT:
        return []
