# SPDX-License-Identifier: MIT
"""The hypervisor a worker was told to use, behind the interface.

The embedded one lives in a package above this one, so it is found by its name when it is wanted.
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
    """The hypervisor of that kind; the embedded one seen from domain `domid`.

    Raises:
        HostError: Xen is asked for on a host that has none, or the embedded one is not installed.
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
    # Here, so that a worker on the embedded hypervisor does without Xen's native module.
    from shared.hypervisor.xen import XenHypervisor

    return XenHypervisor()


def warm_up(device: Path = EVTCHN_DEVICE) -> None:
    """Import and open what workers use of the hypervisors; opens no device, starts nothing.

    For the fork server: while a worker starts, a guest waits for its device, and a jailed worker
    can import nothing. What is missing here is missing in the worker too, which says so.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module(EMBEDDED)
    if device.exists():
        from shared.hypervisor.xen import preload

        with contextlib.suppress(HostError):
            preload()
