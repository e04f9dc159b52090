# SPDX-License-Identifier: MIT
"""Packets, permissions and listings on the wire."""

from __future__ import annotations

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.errors import HostError
from shared.xenstore.errors import (
    AccessDeniedError,
    InvalidRequestError,
    NoEntryError,
    TooBigError,
    WireError,
    XenstoreError,
    error_for,
)
from shared.xenstore.listing import RESTARTS_MAX, PartialListing
from shared.xenstore.wire import (
    Op,
    Packet,
    PacketReader,
    Perm,
    join_strings,
    split_strings,
)


def test_packet_encoded_is_header_and_payload() -> None:
    """The header is type, request id, transaction id and length, 32 bits each."""
    packet = Packet(Op.DIRECTORY_PART, b"/a\x000\x00", 7, 9)
    assert packet.encode() == struct.pack("=IIII", 22, 7, 9, 5) + b"/a\x000\x00"


def test_packet_has_the_fields_of_pyxs_in_its_order() -> None:
    """Packets are made past the constructor of pyxs, so its tuple must be the one we fill."""
    assert Packet(Op.READ, b"/a\0", 7, 9)._asdict() == {
        "op": Op.READ,
        "rq_id": 7,
        "tx_id": 9,
        "size": 3,
        "payload": b"/a\0",
    }


def test_packet_payload_over_limit_is_refused() -> None:
    """4096 bytes fit into a packet, one more does not."""
    assert Packet(Op.WRITE, b"x" * 4096, 1).size == 4096
    with pytest.raises(TooBigError):
        Packet(Op.WRITE, b"x" * 4097, 1)


def test_packet_unknown_operation_is_possible() -> None:
    """Hostile tests can make up operations."""
    assert Packet(4711, b"", 0xFFFFFFFF).encode()[:4] == struct.pack("=I", 4711)


packets = st.lists(
    st.tuples(
        st.integers(0, 0xFFFFFFFF),
        st.binary(max_size=60),
        st.integers(0, 0xFFFFFFFF),
        st.integers(0, 0xFFFFFFFF),
    ).map(lambda fields: Packet(*fields)),
    max_size=6,
)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(packets, st.data())
def test_reader_torn_stream_gives_the_same_packets(sent: list[Packet], data: st.DataObject) -> None:
    """Wherever the stream is cut, the same packets come out."""
    stream = b"".join(packet.encode() for packet in sent)
    reader = PacketReader()
    received = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        received += reader.feed(stream[:size])
        stream = stream[size:]
    assert sent == received


def test_reader_oversized_header_is_an_error() -> None:
    """A length beyond the limit is seen in the header, before the payload is waited for."""
    with pytest.raises(WireError, match="4097 bytes"):
        PacketReader().feed(struct.pack("=IIII", Op.READ, 1, 0, 4097))


@pytest.mark.parametrize("text", [b"r5", b"n0", b"w65535", b"b1"])
def test_perm_round_trip_keeps_text(text: bytes) -> None:
    """Parsing and printing are inverse."""
    assert text == str(Perm.parse(text)).encode()


@pytest.mark.parametrize("text", [b"", b"r", b"x1", b"r-1", b"r01", b"r65536", b"r1 ", b"rr1"])
def test_perm_malformed_is_refused(text: bytes) -> None:
    """What is no letter and domain number is no permission."""
    with pytest.raises(ValueError, match="no xenstore permission"):
        Perm.parse(text)


@pytest.mark.parametrize("path", ["/a\0b", "/ä"])
def test_join_strings_impossible_argument_is_refused(path: str) -> None:
    """A NUL would end the path early; xenstored would act on another node."""
    with pytest.raises(InvalidRequestError):
        join_strings(Op.RM, path)


def test_split_strings_last_nul_missing_counts_as_string() -> None:
    """Values come without a NUL, lists with one."""
    assert split_strings(b"a\0\0b\0") == [b"a", b"", b"b"]
    assert split_strings(b"a\0b") == [b"a", b"b"]


def test_error_for_code_picks_the_class() -> None:
    """Known codes have classes, all of them are HostErrors with the code and a uniform message."""
    assert isinstance(error_for("read", "/a", "ENOENT"), NoEntryError)
    assert isinstance(error_for("read", "/a", "EPERM"), AccessDeniedError)
    error = error_for("read", "/a", "EROFS")
    assert type(error) is XenstoreError
    assert isinstance(error, HostError)
    assert (str(error), error.code) == ("xenstore read: /a: EROFS", "EROFS")


def test_listing_generation_changes_starts_anew() -> None:
    """Parts of two generations are never mixed."""
    listing = PartialListing("/a")
    listing.add(b"1\0old\0")
    assert listing.offset == 4
    listing.add(b"2\0rest\0\0")
    assert (listing.offset, listing.complete) == (0, False)
    listing.add(b"2\0new\0rest\0\0")
    assert (listing.complete, listing.names()) == (True, ["new", "rest"])


def test_listing_empty_directory_is_complete() -> None:
    """No children at all is an empty name at once."""
    listing = PartialListing("/a")
    listing.add(b"1\0\0")
    assert (listing.complete, listing.names()) == (True, [])


def test_listing_changing_for_ever_is_given_up() -> None:
    """A node that changes between any two parts can't keep a client busy for ever."""
    listing = PartialListing("/a")

    def endless() -> None:
        for generation in range(2 * RESTARTS_MAX + 3):
            listing.add(b"%d\0name\0" % generation)

    with pytest.raises(HostError, match="changed"):
        endless()


@pytest.mark.parametrize("reply", [b"", b"1", b"1\0name", b"1\0"])
def test_listing_malformed_answer_is_an_error(reply: bytes) -> None:
    """A part that would never end the listing is not taken."""
    with pytest.raises(WireError):
        PartialListing("/a").add(reply)
