# SPDX-License-Identifier: MIT
"""The hypervisor a worker was told to use, behind the interface."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from shared.errors import HostError
from shared.hypervisor.embedded import EmbeddedHypervisor
from shared.hypervisor.interface import Hypervisor
from shared.worker_spec import HypervisorKind

EVTCHN_DEVICE: Final = Path("/dev/xen/evtchn")


def open_hypervisor(kind: HypervisorKind, embedded_dir: Path) -> Hypervisor:
    """The hypervisor of that kind.

    Raises:
        HostError: Xen is asked for on a host that has none.
    """
    if kind == "embedded":
        return EmbeddedHypervisor(embedded_dir)
    if not EVTCHN_DEVICE.exists():
        raise HostError(
            f"open hypervisor: xen: {EVTCHN_DEVICE} is not on this host (modprobe xen-evtchn);"
            ' without Xen set "hypervisor: embedded"'
        )
    # Here, so that a worker on the embedded hypervisor does without Xen's native module.
    from shared.hypervisor.xen import XenHypervisor

    return XenHypervisor()
