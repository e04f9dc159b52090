# SPDX-License-Identifier: MIT
"""Typed access to nodes: missing, malformed and good values told apart (S1, S2)."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.errors import ConfigError, GuestFault
from shared.xenstore.accessors import (
    UINT32_MAX,
    DeviceNodes,
    Directory,
    parse_integer,
    parse_string,
)


class FakeReader:
    """Nodes in a dictionary."""

    def __init__(self, **nodes: bytes) -> None:
        self.nodes = {f"/base/{name}": value for name, value in nodes.items()}

    async def read_or_none(self, path: str, tx: int = 0) -> bytes | None:
        return self.nodes.get(path)

    async def write(self, path: str, value: bytes, tx: int = 0) -> None:
        self.nodes[path] = value


@pytest.mark.parametrize(
    "text",
    [b"", b" 1", b"1 ", b"1_0", b"+1", b"-1", b"0x1f", b"01", b"-0", b"1.0", b"1\n", b"\xb2",
     "\u0661".encode(), b"9" * 5000, b"1\0"],
)  # fmt: skip
def test_s01_parse_integer_lenient_spelling_is_a_guest_fault(text: bytes) -> None:
    """Only one spelling of a number is taken, and the message names the node."""
    with pytest.raises(GuestFault, match="/base/n"):
        parse_integer(text, node="/base/n")


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(-(2**63), 2**64 - 1))
def test_s01_parse_integer_decimal_is_read(number: int) -> None:
    """Every number in bounds is read as it is."""
    assert number == parse_integer(b"%d" % number, node="n", minimum=-(2**63))


def test_s01_parse_integer_out_of_bounds_is_a_guest_fault() -> None:
    """Bounds are inclusive and named in the message."""
    assert parse_integer(b"8", node="n", maximum=8) == 8
    with pytest.raises(GuestFault, match=r"9 is not in 0\.\.8"):
        parse_integer(b"9", node="n", maximum=8)


@pytest.mark.parametrize("text", [b"\xff", b"a\0b", b"x" * 2049])
def test_s01_parse_string_malformed_is_a_guest_fault(text: bytes) -> None:
    """Text is UTF-8 without NULs, of bounded length."""
    with pytest.raises(GuestFault, match="/base/n"):
        parse_string(text, node="/base/n")


def test_s01_directory_missing_malformed_and_value_are_told_apart() -> None:
    """None, an error and a value are three outcomes, for integers and strings."""

    async def scenario() -> None:
        nodes = Directory(FakeReader(good=b"42", bad=b"x", empty=b""), "/base")
        assert await nodes.read_integer("absent") is None
        assert await nodes.read_integer("good", maximum=UINT32_MAX) == 42
        for name in ("bad", "empty"):
            with pytest.raises(GuestFault, match=f"/base/{name}"):
                await nodes.read_integer(name)
        assert await nodes.read_string("absent") is None
        assert await nodes.read_string("empty") == ""
        assert await nodes.read_string("bad") == "x"

    asyncio.run(scenario())


def test_s01_directory_written_is_read_back() -> None:
    """Strings and integers are written below the base path."""

    async def scenario() -> None:
        reader = FakeReader()
        nodes = Directory(reader, "/base")
        await nodes.write_integer("sectors", 2048)
        await nodes.write_string("mode", "")
        assert reader.nodes == {"/base/sectors": b"2048", "/base/mode": b""}
        assert await nodes.read_integer("sectors") == 2048

    asyncio.run(scenario())


def test_s02_device_nodes_blame_whoever_writes_there() -> None:
    """A malformed node is the toolstack's doing in one directory, the guest's in the other."""

    async def scenario() -> None:
        device = DeviceNodes(FakeReader(), "/local/domain/0/backend/vbd/3/1", "/local/domain/3/d")
        for directory, blame in ((device.backend, ConfigError), (device.frontend, GuestFault)):
            await directory.write_string("ring-ref", "eight")
            with pytest.raises(blame, match=directory.node("ring-ref")):
                await directory.read_integer("ring-ref")
            assert await directory.read_string("ring-ref") == "eight"

    asyncio.run(scenario())
