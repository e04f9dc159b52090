# SPDX-License-Identifier: MIT
"""Decodes listings of children: in one packet, or in parts if they do not fit into one.

DIRECTORY_PART (docs/misc/xenstore.txt) answers `<generation>|<name>|*` from a byte offset in the
list of names; an empty name ends the list. The generation changes when the node does; then the
parts so far are useless, and the listing starts again. No I/O here.
"""

from __future__ import annotations

from typing import Final

from shared.errors import HostError
from shared.xenstore.errors import WireError

RESTARTS_MAX: Final = 100
"""Changes of the node during one listing after which the listing is given up."""


class PartialListing:
    """Collects the parts: ask for `offset`, give the answer to `add`, until `complete`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._data = b""
        self._generation: bytes | None = None
        self._restarts = 0
        self.complete = False

    @property
    def offset(self) -> int:
        """Byte offset to ask for next."""
        return len(self._data)

    def add(self, reply: bytes) -> None:
        """Take one answer.

        Raises:
            WireError: the answer is not of the form above.
            HostError: the node has changed too often meanwhile.
        """
        generation, separator, names = reply.partition(b"\0")
        if not separator or (names and not names.endswith(b"\0")):
            raise WireError(f"xenstore directory part: {self._path}: malformed answer")
        if self._generation not in (None, generation):
            self._restart()
            return
        self._generation = generation
        if names == b"\0" or names.endswith(b"\0\0"):
            self.complete = True
            names = names[:-1]
        elif not names:
            raise WireError(f"xenstore directory part: {self._path}: answer without names")
        self._data += names

    def names(self) -> list[str]:
        """The names, once complete."""
        return decode_names(self._data)

    def _restart(self) -> None:
        self._restarts += 1
        if self._restarts > RESTARTS_MAX:
            raise HostError(
                f"xenstore directory: {self._path}: changed {self._restarts} times while listed"
            )
        self._data = b""
        self._generation = None


def decode_names(payload: bytes) -> list[str]:
    """Names of children from the payload of DIRECTORY; xenstored's rules make them ASCII."""
    return payload.decode("ascii", "backslashreplace").split("\0")[:-1]
