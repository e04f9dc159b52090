# SPDX-License-Identifier: MIT
"""Choosing the hypervisor: what the configuration says, or what this host has."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from shared.errors import HostError
from shared.hypervisor.embedded import EmbeddedHypervisor
from shared.hypervisor.interface import Hypervisor

EVTCHN_DEVICE: Final = Path("/dev/xen/evtchn")

Kind = Literal["auto", "xen", "embedded"]


def open_hypervisor(kind: Kind, embedded_dir: Path) -> Hypervisor:
    """The hypervisor to use; `auto` is Xen where its devices are, else the embedded one.

    Raises:
        HostError: Xen is asked for or found; this release cannot use it yet.
    """
    if kind == "embedded" or (kind == "auto" and not EVTCHN_DEVICE.exists()):
        return EmbeddedHypervisor(embedded_dir)
    found = "" if EVTCHN_DEVICE.exists() else f", and {EVTCHN_DEVICE} is not on this host"
    raise HostError(
        "open hypervisor: xen: support for real Xen (libxenevtchn, libxengnttab) is not part of "
        f'this release{found}; set "hypervisor: embedded"'
    )
