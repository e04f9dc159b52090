# SPDX-License-Identifier: MIT
"""Amounts of bytes as the command line takes them."""

from __future__ import annotations

import argparse
from typing import Final

_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def bytes_of(text: str) -> int:
    """`4096`, `4k`, `1M`, `2G`: bytes, in powers of 1024."""
    digits = text.rstrip("kKmMgGtT")
    unit = text[len(digits) :].lower()
    if not digits.isascii() or not digits.isdecimal() or unit not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text!r}: expected bytes, as 4096, 4k or 1M")
    return int(digits) * _UNITS[unit]
