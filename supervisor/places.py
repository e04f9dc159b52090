# SPDX-License-Identifier: MIT
"""Where the supervisor finds xenstored and the hypervisor, and which domain it is in."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final, Protocol

from config.model import Config
from embedded.protocol import socket_path
from shared.errors import HostError
from shared.worker_spec import HypervisorKind
from shared.xenstore.errors import NoEntryError, XenstoreError
from shared.xenstore.transport import SocketTarget, Target, choose_target

EVTCHN_DEVICE: Final = Path("/dev/xen/evtchn")


class Reader(Protocol):
    """Of the xenstore client."""

    async def read(self, path: str) -> bytes:
        """Value of a node."""


def hypervisor_of(config: Config) -> HypervisorKind:
    """The hypervisor, with `auto` resolved: Xen where it is, else an embedded one that runs.

    Raises:
        HostError: `auto`, and there is neither. The embedded hypervisor is never started or
            waited for unless it was asked for: a host whose Xen is broken must not look served.
    """
    if config.hypervisor != "auto":
        return config.hypervisor
    if EVTCHN_DEVICE.exists():
        return "xen"
    directory = embedded_dir(config)
    if not _embedded_runs(directory):
        raise HostError(
            f"hypervisor: auto: {EVTCHN_DEVICE} is not on this host and no embedded hypervisor"
            f" runs in {directory}; to serve without Xen: --embedded"
        )
    return "embedded"


def _embedded_runs(directory: Path) -> bool:
    """Whether one listens at dom0's socket; a file alone may be left of one that was killed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(socket_path(str(directory), 0))
        except OSError:
            return False
    return True


def embedded_dir(config: Config) -> Path:
    """Directory of the embedded hypervisor."""
    if config.embedded_dir is not None:
        return Path(config.embedded_dir).absolute()
    return Path(config.runtime_dir).absolute() / "embedded"


def xenstore_target(config: Config, hypervisor: HypervisorKind) -> Target:
    """Where xenstored is reached; the embedded hypervisor has one of its own."""
    if hypervisor == "embedded":
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
