# SPDX-License-Identifier: MIT
"""The manifests of three types whose devices live in other ways than a disk; each is an echo."""

from __future__ import annotations

from typing import Final

from shared.device_types import DeviceType, Kind, Traits

BACKEND: Final = "tests.fakes.lives.backend:StallingEcho"

SILENT: Final = DeviceType(
    name="silent",
    backend=BACKEND,
    kinds=(Kind("vsilent"),),
    publishes=("greeting",),
    traits=Traits(ignore_frontend_state=True, hotplug="none"),
)
SCRIPTED: Final = DeviceType(
    name="scripted",
    backend=BACKEND,
    kinds=(Kind("vscripted", script=True),),
    publishes=("greeting",),
    traits=Traits(hotplug="script"),
)
MOVING: Final = DeviceType(
    name="moving",
    backend=BACKEND,
    kinds=(Kind("vmoving"),),
    publishes=("greeting",),
    traits=Traits(reconfigures=True),
)
