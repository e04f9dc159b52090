# SPDX-License-Identifier: MIT
"""Nodes below a directory as strings and integers.

Three outcomes are told apart everywhere: there is no such node (None), there is a value, and the
node holds something else than it should (an error with the blame of whoever writes to that
directory). The parsers take text that a guest has written; they accept exactly one spelling of
each number, whatever Python's `int()` would make of it.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from shared.errors import BlamedError, ConfigError, GuestFault
from shared.limits import NODE_VALUE_MAX

UINT32_MAX: Final = 0xFFFFFFFF
UINT64_MAX: Final = 0xFFFFFFFFFFFFFFFF

_INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,19}")


class Reader(Protocol):
    """The part of the client needed here."""

    async def read_or_none(self, path: str, tx: int = 0) -> bytes | None:
        """Value of a node, None if there is none."""

    async def write(self, path: str, value: bytes, tx: int = 0) -> None:
        """Write a node."""


def parse_integer(
    untrusted_value: bytes,
    *,
    node: str,
    minimum: int = 0,
    maximum: int = UINT64_MAX,
    blame: type[BlamedError] = GuestFault,
) -> int:
    """The integer a node holds: decimal, no blanks, no leading zeros, no plus sign.

    Args:
        untrusted_value: the node's content.
        node: its path, for the message.
        minimum: smallest value allowed; below 0 for signed numbers.
        maximum: largest value allowed.
        blame: class of the error.

    Raises:
        GuestFault: (or `blame`) it is no such number, or out of bounds.
    """
    if _INTEGER.fullmatch(untrusted_value) is None:
        raise blame(f"integer node: {node}: not a decimal number: {_shown(untrusted_value)}")
    number = int(untrusted_value)
    if not minimum <= number <= maximum:
        raise blame(f"integer node: {node}: {number} is not in {minimum}..{maximum}")
    return number


def parse_string(
    untrusted_value: bytes, *, node: str, blame: type[BlamedError] = GuestFault
) -> str:
    """The text a node holds: UTF-8, no NUL, at most 2048 bytes.

    Raises:
        GuestFault: (or `blame`) it is no such text.
    """
    if len(untrusted_value) > NODE_VALUE_MAX:
        raise blame(f"text node: {node}: {len(untrusted_value)} bytes, at most {NODE_VALUE_MAX}")
    try:
        text = untrusted_value.decode("utf-8")
    except UnicodeDecodeError:
        raise blame(f"text node: {node}: not UTF-8: {_shown(untrusted_value)}") from None
    if "\0" in text:
        raise blame(f"text node: {node}: contains a NUL: {_shown(untrusted_value)}")
    return text


class Directory:
    """The nodes below one path.

    `blame` is the class of the error for a malformed node: GuestFault for what a frontend writes,
    ConfigError for what the toolstack does.
    """

    def __init__(self, client: Reader, path: str, *, blame: type[BlamedError] = GuestFault) -> None:
        self._client = client
        self._blame = blame
        self.path = path

    def node(self, name: str) -> str:
        """Full path of a node."""
        return f"{self.path}/{name}"

    async def read_string(self, name: str, tx: int = 0) -> str | None:
        """Text of a node, None if there is none; raises as `parse_string`."""
        untrusted_value = await self._client.read_or_none(self.node(name), tx)
        if untrusted_value is None:
            return None
        return parse_string(untrusted_value, node=self.node(name), blame=self._blame)

    async def read_integer(
        self, name: str, tx: int = 0, *, minimum: int = 0, maximum: int = UINT64_MAX
    ) -> int | None:
        """Number of a node, None if there is none; raises as `parse_integer`."""
        untrusted_value = await self._client.read_or_none(self.node(name), tx)
        if untrusted_value is None:
            return None
        return parse_integer(
            untrusted_value,
            node=self.node(name),
            minimum=minimum,
            maximum=maximum,
            blame=self._blame,
        )

    async def write_string(self, name: str, value: str, tx: int = 0) -> None:
        """Write a node's text, which may be empty."""
        await self._client.write(self.node(name), value.encode(), tx)

    async def write_integer(self, name: str, value: int, tx: int = 0) -> None:
        """Write a node's number."""
        await self._client.write(self.node(name), b"%d" % value, tx)


class DeviceNodes:
    """The two directories of a device. What is wrong in the backend's is the toolstack's doing."""

    def __init__(self, client: Reader, backend_path: str, frontend_path: str) -> None:
        self.backend = Directory(client, backend_path, blame=ConfigError)
        self.frontend = Directory(client, frontend_path, blame=GuestFault)


def _shown(untrusted_value: bytes) -> str:
    """A guest's bytes for a message: escaped and not long."""
    return repr(untrusted_value[:40]) + ("…" if len(untrusted_value) > 40 else "")
