# SPDX-License-Identifier: MIT
"""The xenbus states and their form in xenstore.

Source: xen/include/public/io/xenbus.h (enum xenbus_state). A node holds the number as decimal text.
A frontend can write anything there, so reading never raises: an absent node is `UNKNOWN`, and
anything that is not a state of the table is `INVALID`.
"""

from __future__ import annotations

import enum


class XenbusState(enum.IntEnum):
    """The state of one end of a device. `INVALID` is never written to xenstore."""

    INVALID = -1
    UNKNOWN = 0
    INITIALISING = 1
    INIT_WAIT = 2
    INITIALISED = 3
    CONNECTED = 4
    CLOSING = 5
    CLOSED = 6
    RECONFIGURING = 7
    RECONFIGURED = 8

    def __str__(self) -> str:
        return _NAMES[self]

    @classmethod
    def from_wire(cls, untrusted_value: bytes | None) -> XenbusState:
        """Read the content of a `state` node; None stands for a node that does not exist."""
        if untrusted_value is None:
            return cls.UNKNOWN
        # Exactly one ASCII digit: int() would also accept b" 4", b"+4", b"0_4" and more.
        if len(untrusted_value) == 1 and untrusted_value in b"012345678":
            return cls(int(untrusted_value))
        return cls.INVALID

    def to_wire(self) -> bytes:
        """The content of a `state` node for this state."""
        if self is XenbusState.INVALID:
            raise ValueError("INVALID is no state that can be written")
        return b"%d" % int(self)


_NAMES = {
    XenbusState.INVALID: "INVALID",
    XenbusState.UNKNOWN: "Unknown",
    XenbusState.INITIALISING: "Initialising",
    XenbusState.INIT_WAIT: "InitWait",
    XenbusState.INITIALISED: "Initialised",
    XenbusState.CONNECTED: "Connected",
    XenbusState.CLOSING: "Closing",
    XenbusState.CLOSED: "Closed",
    XenbusState.RECONFIGURING: "Reconfiguring",
    XenbusState.RECONFIGURED: "Reconfigured",
}
