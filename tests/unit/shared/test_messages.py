# SPDX-License-Identifier: MIT
"""The closed schema between supervisor and worker."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import messages as m
from shared.device_id import DeviceId
from shared.errors import BackendBug, Blame
from shared.limits import NODE_VALUE_MAX, WORKER_MESSAGE_MAX

DEVICE = DeviceId("toy", 3, 51712)


def head(**fields: object) -> dict[str, object]:
    """A message as a hostile worker would spell it."""
    return {"device": ["toy", 3, 51712], "generation": 1, "seq": 0, **fields}


@pytest.mark.parametrize(
    "message",
    [
        m.Hello(device=DEVICE, generation=1, seq=0),
        m.Initialised(device=DEVICE, generation=1, seq=1, nodes={"feature-discard": b"1"}),
        m.Failed(device=DEVICE, generation=1, seq=2, stage="init", blame=Blame.HOST, text="no"),
        m.Beat(device=DEVICE, generation=7, seq=3, counters={"reads": 1}),
        m.Jailed(device=DEVICE, generation=1, seq=4, steps=("no core",), left_out=("a: b",)),
        m.CommandAnswer(device=DEVICE, generation=1, seq=5, number=2**48, reply=b"\xa1x"),
    ],
)
def test_messages_of_a_worker_survive_the_wire(message: m.FromWorker) -> None:
    """Encoding and decoding are inverse."""
    assert m.decode_from_worker(m.encode(message)) == message


def test_messages_to_a_worker_survive_the_wire() -> None:
    """A guest's bytes are carried as they are."""
    message = m.Initialise(
        device=DEVICE, generation=1, seq=9, backend={}, frontend={"state": b"\xff\x00"}, resume=True
    )

    assert m.decode_to_worker(m.encode(message)) == message


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "Hello", "extra": 1},
        {"type": "Nothing"},
        {"type": "Init", "backend": {}},
        {"type": "Beat", "counters": {"reads": "many"}},
        {"type": "Beat", "counters": {str(number): 0 for number in range(65)}},
        {"type": "Beat", "counters": {"\x1b[2J": 0}},
        {"type": "Beat", "counters": {"x" * 33: 0}},
        {"type": "Beat", "counters": {"reads": -1}},
        {"type": "Beat", "counters": {"reads": 1.5}},
        {"type": "Failed", "stage": "init\n", "blame": "us", "text": ""},
        {"type": "Present", "phase": "stopping", "greeted": True, "nodes": {}},
        {"type": "Failed", "stage": "init", "blame": "nobody", "text": ""},
        {"type": "Failed", "stage": "init", "blame": "us", "text": "x" * 1025},
        {"type": "Jailed", "steps": ["x" * 201], "left_out": []},
        {"type": "Jailed", "steps": ["x"] * 40, "left_out": ["x"] * 40},
        {"type": "CommandAnswer", "number": "1"},
        {"type": "CommandAnswer", "number": 1, "reply": b"x" * (m.COMMAND_REPLY_MAX + 1)},
        {"type": "CommandAnswer", "number": 1, "blame": "us", "text": "x" * 1025},
        {"type": "CommandAnswer", "number": 1, "blame": "nobody"},
        {"type": "Publish", "nodes": {"": b"1"}},
        {"type": "Publish", "nodes": {"info": b"x" * (NODE_VALUE_MAX + 1)}},
        {"type": "Publish", "nodes": {"x" * 200: b""}},
    ],
)
def test_messages_that_break_schema_or_bounds_are_refused(fields: dict[str, object]) -> None:
    """Unknown kinds, unknown fields, wrong types and sizes out of bounds are our bug or worse."""
    with pytest.raises(BackendBug):
        m.decode_from_worker(msgspec.msgpack.encode(head(**fields)))


def test_messages_longer_than_allowed_are_refused_unread() -> None:
    """The size is checked before anything is parsed."""
    with pytest.raises(BackendBug, match="more than allowed"):
        m.decode_from_worker(b"\x81" * (WORKER_MESSAGE_MAX + 1))


def test_messages_nested_deeper_than_the_stack_are_refused() -> None:
    """Arrays within arrays, in a field that has to be skipped, end in a BackendBug too."""
    untrusted_data = b"\x81\xa1x" + b"\x91" * (WORKER_MESSAGE_MAX - 3)

    # Which of the two is met first, the stack's end or the message's, is the interpreter's affair.
    with pytest.raises(BackendBug, match=r"recursion|truncated"):
        m.decode_from_worker(untrusted_data)
    with pytest.raises(BackendBug, match=r"recursion|truncated"):
        m.decode_to_worker(untrusted_data)


@given(st.binary(max_size=256))
def test_messages_of_random_bytes_never_raise_anything_else(untrusted_data: bytes) -> None:
    """Garbage is a BackendBug, never another exception."""
    with contextlib.suppress(BackendBug):
        m.decode_from_worker(untrusted_data)
