# SPDX-License-Identifier: MIT
"""The manifest of the type `clock`. Imports nothing else, so that everybody can read it."""

import msgspec

from shared.device_types import Command, Counter, DeviceType, Kind


class ClockOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `types.<kind>.options` may say."""

    ahead: float = 0.0  # seconds by which the clock is fast


TYPE = DeviceType(
    name="clock",
    backend="xenbackd_clock.backend:Clock",
    options=ClockOptions,
    kinds=(Kind("vclock"),),
    publishes=("unit",),
    native_modules=("shared.native._ring",),
    counters=(Counter("answers", "questions answered", role="read"),),
    commands=(Command("set", "put the clock forward or back", ClockOptions),),
)
