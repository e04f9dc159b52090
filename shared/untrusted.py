# SPDX-License-Identifier: MIT
"""Parses numbers that a guest wrote, and makes texts of guests and workers harmless.

Strict on purpose: `int()` also accepts spaces, signs, underscores and the digits of all scripts. If
one end reads a number more generously than the other, a guest can confuse them.
"""

from __future__ import annotations

import re
from typing import Final

from shared.errors import GuestFault

_DECIMAL: Final = re.compile(rb"-?[0-9]{1,20}")
SHOWN: Final = 32
"""Bytes of a bad value that a message quotes."""


def parse_int(untrusted: bytes | None, what: str, lo: int, hi: int) -> int:
    """Read a decimal number between `lo` and `hi`, both included.

    `what` names the node in the message, for instance "frontend node: ring-ref". The value None
    stands for a node that does not exist.

    Raises:
        GuestFault: the node is missing, not a plain decimal number, or out of range; the message
            begins with `what`.
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


def neutral(untrusted_text: str) -> str:
    """Escape everything that a terminal would act on.

    Error texts and nodes may hold bytes that a guest chose: escape sequences that rewrite the
    screen, newlines that forge a line, characters that reverse the direction of writing. Everything
    that is not printable becomes `\\xNN`, `\\uNNNN` or `\\UNNNNNNNN`; the result is one line.
    """
    if untrusted_text.isprintable():
        return untrusted_text
    return "".join(one if one.isprintable() else _escape(one) for one in untrusted_text)


def _escape(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
