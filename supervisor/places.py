# SPDX-License-Identifier: MIT
"""Where the supervisor finds xenstored and the hypervisor, and who it is itself."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from config.model import Config
from shared.errors import HostError
from shared.hypervisor.select import EVTCHN_DEVICE
from shared.xenstore.errors import NoEntryError, XenstoreError
from shared.xenstore.transport import SocketTarget, Target, choose_target


class Reader(Protocol):
    """Of the xenstore client."""

    async def read(self, path: str) -> bytes:
        """Value of a node."""


def hypervisor_of(config: Config) -> str:
    """The hypervisor's name, "xen" or "embedded", with `auto` resolved."""
    if config.hypervisor != "auto":
        return config.hypervisor
    return "xen" if EVTCHN_DEVICE.exists() else "embedded"


def embedded_dir(config: Config) -> Path:
    """Directory of the embedded hypervisor."""
    if config.embedded_dir is not None:
        return Path(config.embedded_dir).absolute()
    return Path(config.runtime_dir).absolute() / "embedded"


def xenstore_target(config: Config) -> Target:
    """Where xenstored is reached: with the embedded hypervisor, its own."""
    if hypervisor_of(config) == "embedded":
        return SocketTarget(str(embedded_dir(config) / "xenstored" / "socket"))
    store = config.xenstore
    return choose_target(store.transport, store.socket, store.device)


async def own_domid(store: Reader) -> int:
    """Our own domain: the node `domid` of our home directory; dom0 need not have it.

    Raises:
        HostError: it cannot be read, or is no number.
    """
    try:
        return int(await store.read("domid"))
    except NoEntryError:
        return 0
    except (ValueError, XenstoreError) as error:
        raise HostError(f"own domain id: node domid: {error}") from error
