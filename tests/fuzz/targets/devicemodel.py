# SPDX-License-Identifier: MIT
"""The program in QEMU's place: its command line, and what QMP clients send.

First byte of an input: "a" for arguments (words with NUL between), anything else for a client,
whose stream is cut into pieces as long as that byte says.
"""

from __future__ import annotations

import json
import os

from shared.errors import ConfigError
from supervisor.devicemodel.arguments import DOMID_MAX, SOCKET_PATH_MAX, Arguments, parse
from supervisor.devicemodel.qmp import Answers, Session

_ARGUMENTS = Arguments(3, "guest", channels=("console",))


def check(untrusted_data: bytes) -> None:
    """One command line, or one client."""
    if untrusted_data[:1] == b"a":
        _command_line(untrusted_data[1:])
    elif untrusted_data:
        _client(untrusted_data[1:], 1 + untrusted_data[0] % 64)


def _command_line(data: bytes) -> None:
    # As Python hands words over that are no UTF-8.
    words = [os.fsdecode(word) for word in data.split(b"\0")]
    try:
        arguments = parse(words)
    except ConfigError:
        return
    assert 0 <= arguments.domid <= DOMID_MAX
    assert arguments.name
    for one in arguments.sockets:
        assert (one.path is None) != (one.fd is None)
        assert one.path is None or len(os.fsencode(one.path)) <= SOCKET_PATH_MAX


def _client(untrusted_data: bytes, piece: int) -> None:
    whole, torn = Session(Answers(_ARGUMENTS)), Session(Answers(_ARGUMENTS))
    replies = whole.feed(untrusted_data)
    pieces = []
    for start in range(0, len(untrusted_data), piece):
        if torn.broken:
            break  # the server hangs up
        pieces.append(torn.feed(untrusted_data[start : start + piece]))
    assert b"".join(pieces) == replies, "it matters how the stream is cut"
    assert torn.broken == whole.broken
    for line in replies.splitlines():
        assert json.loads(line).keys() & {"return", "error"}
