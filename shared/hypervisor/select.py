# SPDX-License-Identifier: MIT
"""The hypervisor a worker was told to use, behind the interface."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from embedded.handles import EmbeddedHypervisor
from shared.errors import HostError
from shared.hypervisor.interface import Hypervisor
from shared.worker_spec import HypervisorKind

EVTCHN_DEVICE: Final = Path("/dev/xen/evtchn")


def open_hypervisor(kind: HypervisorKind, embedded_dir: str, domid: int = 0) -> Hypervisor:
    """The hypervisor of that kind; the embedded one seen from domain `domid`.

    Raises:
        HostError: Xen is asked for on a host that has none.
    """
    if kind == "embedded":
        return EmbeddedHypervisor(embedded_dir, domid)
    if not os.access(EVTCHN_DEVICE, os.F_OK):
        raise HostError(
            f"open hypervisor: xen: {EVTCHN_DEVICE} is not on this host (modprobe xen-evtchn);"
            ' without Xen set "hypervisor: embedded"'
        )
    # Here, so that a worker on the embedded hypervisor does without Xen's native module.
    from shared.hypervisor.xen import XenHypervisor

    return XenHypervisor()


def warm_up(device: Path = EVTCHN_DEVICE) -> None:
    """Import and open what every worker on this host's Xen uses; opens no device, starts nothing.

    For the fork server: a worker is waited for by a guest whose disk stands still. What is missing
    here is missing in the worker too, which says so.
    """
    if device.exists():
        from shared.hypervisor.xen import preload

        with contextlib.suppress(HostError):
            preload()
