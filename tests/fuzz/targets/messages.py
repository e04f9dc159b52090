# SPDX-License-Identifier: MIT
"""Messages between supervisor and worker: a sender that writes anything.

A message is read or refused by `BackendBug`, never anything else; what was read is within the
bounds and means the same when it is written and read again. First byte of an input: the direction.
"""

from __future__ import annotations

from shared import messages as m
from shared.errors import BackendBug
from shared.limits import (
    NODE_NAME_MAX,
    NODE_VALUE_MAX,
    SNAPSHOT_NODES_MAX,
    WORKER_MESSAGE_MAX,
)


def check(untrusted_data: bytes) -> None:
    """One message."""
    if untrusted_data[:1] == b"w":
        _to_worker(untrusted_data[1:])
    else:
        _from_worker(untrusted_data[1:])


def _to_worker(untrusted_data: bytes) -> None:
    try:
        message = m.decode_to_worker(untrusted_data)
    except BackendBug:
        return
    assert m.decode_to_worker(m.encode(message)) == message


def _from_worker(untrusted_data: bytes) -> None:
    try:
        message = m.decode_from_worker(untrusted_data)
    except BackendBug:
        return
    assert len(untrusted_data) <= WORKER_MESSAGE_MAX
    again = m.encode(message)
    # With the defaults of fields that were left out it may be longer than one may be.
    if len(again) <= WORKER_MESSAGE_MAX:
        assert m.decode_from_worker(again) == message
    nodes: m.Nodes = getattr(message, "nodes", {})
    assert len(nodes) <= SNAPSHOT_NODES_MAX
    assert all(0 < len(name) <= NODE_NAME_MAX for name in nodes)
    assert all(len(value) <= NODE_VALUE_MAX for value in nodes.values())
    counters: dict[str, int] = getattr(message, "counters", {})
    assert len(counters) <= m.COUNTERS_MAX
    assert all(0 <= value < 1 << 64 for value in counters.values())
    assert len(getattr(message, "text", "")) <= m.TEXT_MAX
    assert len(getattr(message, "reply", b"")) <= m.COMMAND_REPLY_MAX
