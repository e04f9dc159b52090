# SPDX-License-Identifier: MIT
"""The Python mirror of the embedded hypervisor's C header."""

from __future__ import annotations

import errno
from typing import Any

from embedded import protocol
from embedded.native._embedded import ffi, lib
from embedded.protocol import Op, Reply, Request


def test_protocol_structs_have_the_size_of_the_c_structs() -> None:
    """Every struct.Struct is as long as the C struct it mirrors."""
    mirrored = {
        "struct embedded_request": protocol.REQUEST,
        "struct embedded_reply": protocol.REPLY,
        "struct embedded_map_result": protocol.MAP_RESULT,
        "struct embedded_header": protocol.HEADER,
        "struct grant_entry_v1": protocol.GRANT_ENTRY,
    }

    assert {name: ffi.sizeof(name) for name in mirrored} == {
        name: layout.size for name, layout in mirrored.items()
    }


def test_protocol_grant_entry_has_the_offsets_of_xen() -> None:
    """grant_entry_v1 is flags, domid, frame at 0, 2, 4, eight bytes in all."""
    offsets = [ffi.offsetof("struct grant_entry_v1", name) for name in ("flags", "domid", "frame")]

    assert offsets == [0, 2, 4]


def test_protocol_reply_packed_in_python_reads_the_same_in_c() -> None:
    """A packed reply, seen through the C struct, has every value in its place."""
    data = Reply(error=-errno.EINVAL, value=2, count=3, serial=1 << 40).pack()

    reply: Any = ffi.cast("struct embedded_reply *", ffi.from_buffer(data))

    assert (reply.error, reply.value, reply.count, reply.serial) == (-errno.EINVAL, 2, 3, 1 << 40)


def test_protocol_request_made_in_c_is_parsed_in_python() -> None:
    """A C request with a payload comes out of `Request.parse` as it went in."""
    request = ffi.new("struct embedded_request *", {"op": 6, "domid": 7, "argument": 1, "count": 2})

    parsed = Request.parse(bytes(ffi.buffer(request)) + b"payload")

    assert parsed == Request(Op.MAP, 7, 1, 2, b"payload")


def test_protocol_request_shorter_than_its_header_is_none() -> None:
    """A message that cannot be a request is told apart."""
    assert Request.parse(b"\1\0\0\0") is None


def test_protocol_numbers_agree_with_the_c_header() -> None:
    """Constants and the first and last operation are the same on both sides."""
    names = ["ANY_DOMID", "MAP_MAX", "TEXT_MAX", "PORTS_MAX", "MAGIC", "GRANT_FRAME"]
    names += ["GRANT_ENTRIES", "FIRST_FRAME", "FIRST_REF"]

    assert {name: getattr(lib, f"EMBEDDED_{name}") for name in names} == {
        name: getattr(protocol, name) for name in names
    }
    assert (lib.EMBEDDED_ALLOC_UNBOUND, lib.EMBEDDED_RELEASE) == (Op.ALLOC_UNBOUND, Op.RELEASE)


def test_protocol_first_frame_lies_behind_the_grant_table() -> None:
    """Header and table end exactly where the first frame that can be granted begins."""
    table_pages = protocol.GRANT_ENTRIES * protocol.GRANT_ENTRY.size // protocol.PAGE_SIZE

    assert protocol.GRANT_FRAME + table_pages == protocol.FIRST_FRAME
