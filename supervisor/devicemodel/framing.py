# SPDX-License-Identifier: MIT
"""Cuts what a QMP client sends into JSON objects.

There is no separator: libxl ends a command with a line end, libxenstat (xentop) with nothing at
all, so an object ends at its closing brace. The pieces are found without parsing them, each byte
is looked at once, and what is kept is bounded. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

MESSAGE_MAX: Final = 64 * 1024
"""Bytes of one command; libxl's longest have some hundred."""
DEPTH_MAX: Final = 32
"""Nesting of one command. The JSON parser recurses, so this comes before it."""

_BETWEEN: Final = b" \t\r\n\0"
_OUTSIDE: Final = re.compile(rb'["{}\[\]]')
_IN_STRING: Final = re.compile(rb'["\\]')


class FramingError(Exception):
    """What came is no object, nested too deep, or too long: nothing after it makes sense."""


class Framer:
    """Keeps the beginning of an object until its end has come."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._seen = 0
        self._depth = 0
        self._in_string = False

    def feed(self, untrusted_data: bytes) -> Iterator[bytes]:
        """The objects that are complete with this piece; to be taken to the last one.

        Raises:
            FramingError: the stream is of no use any more, after the objects found so far.
        """
        self._data += untrusted_data
        while (end := self._end()) is not None:
            found = bytes(self._data[:end])
            del self._data[:end]
            self._seen = 0
            yield found
        if len(self._data) > MESSAGE_MAX:
            raise FramingError(f"more than {MESSAGE_MAX} bytes in one command")

    def _end(self) -> int | None:
        """Where the first object ends; None if it has not ended yet."""
        data = self._data
        if self._depth == 0:
            rest = data.lstrip(_BETWEEN)
            del data[: len(data) - len(rest)]
            if not data:
                return None
            if not data.startswith(b"{"):
                raise FramingError("not a JSON object")
        while True:
            pattern = _IN_STRING if self._in_string else _OUTSIDE
            found = pattern.search(data, self._seen)
            if found is None:
                self._seen = len(data)
                return None
            self._seen = found.end()
            match found[0]:
                case b"\\":
                    if self._seen == len(data):
                        # Looked at again when the escaped byte is there.
                        self._seen -= 1
                        return None
                    self._seen += 1
                case b'"':
                    self._in_string = not self._in_string
                case b"{" | b"[":
                    self._depth += 1
                    if self._depth > DEPTH_MAX:
                        raise FramingError(f"nested deeper than {DEPTH_MAX}")
                case _:
                    self._depth -= 1
                    if self._depth == 0:
                        return self._seen
