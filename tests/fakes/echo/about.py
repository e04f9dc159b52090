# SPDX-License-Identifier: MIT
"""The manifest of the type `echo`, of another distribution as far as xenbackd can tell."""

from __future__ import annotations

from typing import Final

from shared.device_types import DeviceType, Kind

SLOT_SIZE: Final = 64
"""Bytes of a text, at both ends."""

TYPE: Final = DeviceType(
    name="echo",
    backend="tests.fakes.echo.backend:Echo",
    kinds=(Kind("vecho"),),
    publishes=("greeting",),
    guest="tests.fakes.echo.guest:GUEST",
)
