# SPDX-License-Identifier: MIT
"""Small reads about one device that cannot fail because of what a guest or toolstack wrote.

A node that is not there, or that we may not read any more, reads as absent: a guest that removes
its nodes or takes away our right to read them has closed its end (public/io/xenbus.h; QEMU ignores
both).
"""

from __future__ import annotations

from typing import NamedTuple

from shared.xenbus import XenbusState
from shared.xenstore.errors import AccessDeniedError
from supervisor.xenstore.store import Store


class BackendSeen(NamedTuple):
    """What the toolstack's part of a backend directory says."""

    there: bool
    frontend: str | None
    state: XenbusState
    online: bool


async def value(store: Store, path: str) -> bytes | None:
    """A node's value, or None for absent."""
    try:
        return await store.read_or_none(path)
    except AccessDeniedError:
        return None


async def backend(store: Store, directory: str) -> BackendSeen:
    """Read the nodes that decide about a device (S9)."""
    frontend, state, online = await store.read_many(
        f"{directory}/{name}" for name in ("frontend", "state", "online")
    )
    return BackendSeen(
        there=frontend is not None or state is not None,
        frontend=None if frontend is None else frontend.decode("utf-8", "replace"),
        state=XenbusState.from_wire(state),
        online=online is not None and is_true(online),
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
