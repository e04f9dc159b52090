# SPDX-License-Identifier: MIT
"""The hypervisor a worker was told to use, behind the interface."""

from __future__ import annotations

from pathlib import Path

from shared.errors import HostError
from shared.hypervisor.embedded import EmbeddedHypervisor
from shared.hypervisor.interface import Hypervisor
from shared.worker_spec import HypervisorKind


def open_hypervisor(kind: HypervisorKind, embedded_dir: Path) -> Hypervisor:
    """The hypervisor of that kind.

    Raises:
        HostError: Xen, which this release cannot use yet.
    """
    if kind == "embedded":
        return EmbeddedHypervisor(embedded_dir)
    raise HostError(
        "open hypervisor: xen: support for real Xen (libxenevtchn, libxengnttab) is not part of "
        'this release; set "hypervisor: embedded"'
    )
