# SPDX-License-Identifier: MIT
"""Small reads about one device that cannot fail because of what a guest or toolstack wrote.

A node that is not there, or that we may not read any more, reads as absent: a guest that removes
its nodes or takes away our right to read them has closed its end (public/io/xenbus.h; QEMU ignores
both).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from shared.lifecycle_types import HotplugStatus
from shared.xenbus import XenbusState
from shared.xenstore.errors import AccessDeniedError
from supervisor.xenstore.store import Store


class BackendSeen(NamedTuple):
    """What the toolstack's part of a backend directory says."""

    there: bool
    frontend: str | None
    state: XenbusState
    online: bool
    hotplug: HotplugStatus = HotplugStatus.WAITING
    hotplug_error: str = ""
    """What the hotplug script says of its failure; may be empty although it failed."""


async def value(store: Store, path: str) -> bytes | None:
    """A node's value, or None for absent."""
    try:
        return await store.read_or_none(path)
    except AccessDeniedError:
        return None


_DECIDING: Final = ("frontend", "state", "online")
_OF_SCRIPT: Final = ("hotplug-status", "hotplug-error")
_HOTPLUG: Final = {b"connected": HotplugStatus.CONNECTED, b"error": HotplugStatus.ERROR}


async def backend(store: Store, directory: str, *, script: bool = False) -> BackendSeen:
    """Read the nodes that decide about a device (S9); with `script`, a hotplug script's too."""
    names = _DECIDING + _OF_SCRIPT if script else _DECIDING
    read = await store.read_many(f"{directory}/{name}" for name in names)
    frontend, state, online = read[:3]
    status, message = read[3:] if script else (None, None)
    return BackendSeen(
        there=frontend is not None or state is not None,
        frontend=None if frontend is None else frontend.decode("utf-8", "replace"),
        state=XenbusState.from_wire(state),
        online=online is not None and is_true(online),
        hotplug=_HOTPLUG.get(status or b"", HotplugStatus.WAITING),
        hotplug_error=(message or b"").decode("utf-8", "replace"),
    )


def is_true(value: bytes) -> bool:
    """A toolstack's flag: a number other than zero."""
    return value.strip().isdigit() and int(value) != 0


async def frontend_state(store: Store, directory: str) -> XenbusState:
    """The frontend's `state` (S10); Unknown if it or the directory is not there."""
    return XenbusState.from_wire(await value(store, f"{directory}/state"))


async def introduced(store: Store, domid: int) -> bool:
    """Whether a domain is there; only xenstored's own domain and dom0 are told."""
    try:
        return await store.is_domain_introduced(domid)
    except AccessDeniedError:
        # A driver domain goes by the directories, which the toolstack closes.
        return True
