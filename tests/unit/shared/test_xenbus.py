# SPDX-License-Identifier: MIT
"""The xenbus states on the wire (S3)."""

from __future__ import annotations

import pytest

from shared.xenbus import XenbusState


def test_s03_states_0_to_8_have_the_names_of_the_protocol() -> None:
    """The nine states print by name and survive the way onto the wire and back."""
    names = [str(XenbusState.from_wire(b"%d" % number)) for number in range(9)]

    assert names == [
        "Unknown",
        "Initialising",
        "InitWait",
        "Initialised",
        "Connected",
        "Closing",
        "Closed",
        "Reconfiguring",
        "Reconfigured",
    ]


@pytest.mark.parametrize(
    "untrusted_value",
    [b"", b"9", b"-1", b"99", b"abc", b" 4", b"4 ", b"+4", b"04", b"4\x00junk", b"4" * 2048],
)
def test_s03_anything_else_prints_as_invalid(untrusted_value: bytes) -> None:
    """Whatever a frontend writes, reading it does not raise."""
    assert str(XenbusState.from_wire(untrusted_value)) == "INVALID"


def test_s03_absent_node_is_unknown() -> None:
    """A node that is not there is state 0."""
    assert XenbusState.from_wire(None) is XenbusState.UNKNOWN


def test_xenbus_invalid_is_never_written() -> None:
    """INVALID exists only on our side of the wire."""
    with pytest.raises(ValueError, match="INVALID"):
        XenbusState.INVALID.to_wire()
