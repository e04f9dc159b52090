# SPDX-License-Identifier: MIT
"""Values as text for people: durations, amounts, rates."""

from __future__ import annotations

from typing import Final

_BINARY: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_DECIMAL: Final = ("", "k", "M", "G", "T")


def duration(seconds: float) -> str:
    """A time span in its leading units: `0.4 s`, `12 s`, `3 min 07 s`, `2 h 05 min`, `4 d 3 h`."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(count: float) -> str:
    """Bytes in binary units: `512 B`, `1.5 KiB`."""
    return _scaled(count, 1024, _BINARY, " ")


def amount(count: float) -> str:
    """A number shortened in thousands: `950`, `12.3k`."""
    return _scaled(count, 1000, _DECIMAL, "")


def _scaled(value: float, base: int, units: tuple[str, ...], gap: str) -> str:
    power = 0
    # 0.9995 and not 1: what would be rounded up to 1000 belongs into the next unit.
    while abs(value) >= base * 0.9995 and power < len(units) - 1:
        value /= base
        power += 1
    digits = f"{value:.0f}" if power == 0 or abs(value) >= 100 else f"{value:.1f}"
    return f"{digits}{gap}{units[power]}".rstrip()


def plural(count: int, word: str) -> str:
    """`1 device`, `2 devices`."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
