# SPDX-License-Identifier: MIT
"""Numbers out of what a guest wrote into xenstore.

Strict on purpose: `int()` also takes spaces, signs, underscores and the digits of all scripts, and
whatever one end reads more generously than the other is a way to confuse them.
"""

from __future__ import annotations

import re
from typing import Final

from shared.errors import GuestFault

_DECIMAL: Final = re.compile(rb"-?[0-9]{1,20}")
SHOWN: Final = 32
"""Bytes of a bad value that are quoted in a message."""


def parse_int(untrusted: bytes | None, what: str, lo: int, hi: int) -> int:
    """Read a decimal number between `lo` and `hi`, both included.

    `what` names the node in the message, for instance "frontend node: ring-ref"; None as a value
    stands for a node that is not there.

    Raises:
        GuestFault: missing, no plain decimal number, or out of range; the message begins with
            `what`.
    """
    if untrusted is None:
        raise GuestFault(f"{what}: missing")
    if not _DECIMAL.fullmatch(untrusted):
        raise GuestFault(f"{what}: {quote(untrusted)} is not a decimal number")
    number = int(untrusted)
    if not lo <= number <= hi:
        raise GuestFault(f"{what}: {number} is not in {lo}..{hi}")
    return number


def quote(untrusted: bytes) -> str:
    """A short printable form of what a guest wrote: escaped, cut, safe in a log line."""
    text = repr(untrusted[:SHOWN])[1:]
    return text + "…" if len(untrusted) > SHOWN else text
