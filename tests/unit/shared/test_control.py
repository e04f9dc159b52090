# SPDX-License-Identifier: MIT
"""The form of what the command line and the supervisor say to each other."""

from __future__ import annotations

import msgspec
import pytest

from shared import control


@pytest.mark.parametrize(
    "untrusted_data",
    [
        b"",
        b"{",
        b'{"op":"Nothing"}',
        b'{"op":"Events","count":"many"}',
        b'{"op":"Show","device":"\xff"}',
        b'{"x":' + b"[" * 4000,
    ],
)
def test_control_request_that_is_none_is_one_kind_of_error(untrusted_data: bytes) -> None:
    """Garbage, text that is no UTF-8, arrays within arrays: whoever asked gets a reply."""
    with pytest.raises(msgspec.MsgspecError):
        control.decode_request(untrusted_data)


def test_control_request_survives_the_wire() -> None:
    """Encoding and decoding are inverse."""
    request = control.RestartRolling(targets=["toy"], parallel=2)

    assert control.decode_request(control.encode(request)) == request
