# SPDX-License-Identifier: MIT
"""Opens the hypervisor that a worker was told to use.

The embedded hypervisor is a package above this one, so it is imported by name when it is needed.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from pathlib import Path
from typing import Final

from shared.errors import HostError
from shared.hypervisor.interface import Hypervisor
from shared.worker_spec import HypervisorKind

EVTCHN_DEVICE: Final = Path("/dev/xen/evtchn")
EMBEDDED: Final = "embedded.handles"
"""Module of the embedded hypervisor."""


def open_hypervisor(kind: HypervisorKind, embedded_dir: str, domid: int = 0) -> Hypervisor:
    """The hypervisor of that kind; the embedded one as domain `domid` sees it.

    Raises:
        HostError: this host has no Xen, or the embedded hypervisor is not installed.
    """
    if kind == "embedded":
        try:
            embedded = importlib.import_module(EMBEDDED)
        except ImportError as error:
            raise HostError(f"open hypervisor: embedded: {error}") from error
        hypervisor: Hypervisor = embedded.EmbeddedHypervisor(embedded_dir, domid)
        return hypervisor
    if not os.access(EVTCHN_DEVICE, os.F_OK):
        raise HostError(
            f"open hypervisor: xen: {EVTCHN_DEVICE} is not on this host (modprobe xen-evtchn);"
            ' without Xen set "hypervisor: embedded"'
        )
    # Imported here, so that a worker on the embedded hypervisor does not need Xen's native module.
    from shared.hypervisor.xen import XenHypervisor

    return XenHypervisor()


def warm_up(device: Path = EVTCHN_DEVICE) -> None:
    """Import and open what workers use of the hypervisors; open no device, start nothing.

    For the fork server: a guest waits for its device while a worker starts, and a jailed worker
    cannot import anything. If something is missing here, the worker lacks it too and reports it.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module(EMBEDDED)
    if device.exists():
        from shared.hypervisor.xen import preload

        with contextlib.suppress(HostError):
            preload()
