# SPDX-License-Identifier: MIT
"""Shared rings in Python, for device types whose rate does not matter and for tests.

The peer runs at the same time and may be hostile, so:

- native code reads indices with acquire and writes them with release, once per use; the notify
  check has a full barrier between our store and our load;
- indices are free-running 32-bit numbers and are compared by distance only;
- our own indices are private; the words in the ring only publish them. A slot is copied out once,
  and only the copy is looked at;
- a producer that is further ahead than the ring is long is a fault of the peer.

`SharedWords` is any area with indices in it (console, 9pfs and keyboard rings have layouts of their
own). `BackRing` and `FrontRing` are the two ends of the common request/response ring
(xen/include/public/io/ring.h). No I/O: nothing here notifies the peer, it only says when to.
"""

from __future__ import annotations

from typing import Any, Final

from shared.errors import BackendBug, GuestFault
from shared.hypervisor.interface import PAGE_SIZE
from shared.native._ring import ffi, lib

INDEX_MASK: Final = 0xFFFFFFFF

RING_HEADER: Final = 64
"""Bytes before the first slot."""

_REQ_PROD: Final = 0
_REQ_EVENT: Final = 4
_RSP_PROD: Final = 8
_RSP_EVENT: Final = 12


def advance(index: int, by: int = 1) -> int:
    """The index moved on by `by`; it wraps at 2^32."""
    return (index + by) & INDEX_MASK


def distance(ahead: int, behind: int) -> int:
    """How far `ahead` is ahead of `behind`, modulo 2^32."""
    return (ahead - behind) & INDEX_MASK


class SharedWords:
    """Shared memory of `size` bytes at `address`, which must be a multiple of 4.

    The memory must outlive this object, which cannot tell whether it is still mapped.
    """

    def __init__(self, address: int, size: int) -> None:
        if address % 4:
            raise BackendBug(f"use shared memory: {address:#x}: not a multiple of 4")
        self._address = address
        self.size = size

    def load_acquire(self, offset: int) -> int:
        """Read a 32-bit word, with acquire. The value is untrusted."""
        return int(lib.word_load_acquire(self._word(offset)))

    def store_release(self, offset: int, value: int) -> None:
        """Write a 32-bit word after everything that was written before, with release."""
        lib.word_store_release(self._word(offset), value & INDEX_MASK)

    def push(self, producer: int, event: int, old: int, new: int) -> bool:
        """Publish a producer index; return whether the peer's event index asks for a notification.

        Args:
            producer, event: offsets of the words.
            old: the index published last, from the caller's own memory.
            new: the index to publish.
        """
        return bool(lib.ring_push(self._word(producer), self._word(event), old, new))

    def final_check(self, producer: int, event: int, consumer: int) -> int:
        """Ask for an event at the next entry, then read the untrusted producer index once more."""
        return int(lib.ring_final_check(self._word(producer), self._word(event), consumer))

    def read(self, offset: int, length: int) -> bytes:
        """Copy bytes out once."""
        return bytes(ffi.buffer(self._bytes(offset, length), length))

    def write(self, offset: int, data: bytes) -> None:
        """Copy bytes in."""
        ffi.memmove(self._bytes(offset, len(data)), data, len(data))

    def _word(self, offset: int) -> int:
        if offset % 4 or not 0 <= offset <= self.size - 4:
            raise BackendBug(f"use shared memory: word at {offset}: outside or not aligned")
        return self._address + offset

    def _bytes(self, offset: int, length: int) -> Any:
        if not (0 <= offset <= self.size and 0 <= length <= self.size - offset):
            raise BackendBug(f"use shared memory: {offset}+{length}: outside of {self.size} bytes")
        return ffi.cast("uint8_t *", self._address + offset)


class _Ring:
    """The slots, which both ends have in common."""

    def __init__(self, address: int, slot_size: int, pages: int) -> None:
        self.words = SharedWords(address, pages * PAGE_SIZE)
        self.slot_size = slot_size
        fit = (self.words.size - RING_HEADER) // slot_size
        if fit < 1:
            raise BackendBug(f"use ring: slots of {slot_size} bytes: none fits {pages} pages")
        self.slots = 1 << (fit.bit_length() - 1)
        """The largest power of two that fits; a request and its response share a slot."""

    def _read_slot(self, index: int) -> bytes:
        return self.words.read(self._offset(index), self.slot_size)

    def _write_slot(self, index: int, data: bytes) -> None:
        if len(data) > self.slot_size:
            raise BackendBug(f"write ring: {len(data)} bytes: a slot has {self.slot_size}")
        self.words.write(self._offset(index), data)

    def _offset(self, index: int) -> int:
        return RING_HEADER + (index & (self.slots - 1)) * self.slot_size


class BackRing(_Ring):
    """The backend's end. It starts where the last backend stopped: at the published `rsp_prod`.

    Args:
        address: the ring's first page, mapped writable.
        slot_size: bytes of the larger of request and response.
        pages: pages of the ring, mapped one after another.
    """

    def __init__(self, address: int, slot_size: int, pages: int = 1) -> None:
        super().__init__(address, slot_size, pages)
        self.rsp_prod = self.words.load_acquire(_RSP_PROD)
        """Responses made; published by `push_responses`."""
        self.req_cons = self.rsp_prod
        self._published = self.rsp_prod

    def untrusted_req_prod(self) -> int:
        """The producer index that the frontend claims."""
        return self.words.load_acquire(_REQ_PROD)

    def waiting(self) -> int:
        """How many requests can be taken; raises GuestFault if more than fit into the ring."""
        return self._check(self.untrusted_req_prod())

    def take_request(self) -> bytes:
        """Copy the next request out. Call it only after `waiting` said that there is one."""
        untrusted_request = self._read_slot(self.req_cons)
        self.req_cons = advance(self.req_cons)
        return untrusted_request

    def put_response(self, response: bytes) -> None:
        """Write the next response; raises BackendBug if no request is left to answer."""
        if self.rsp_prod == self.req_cons:
            raise BackendBug("answer request: ring: all requests taken are answered")
        self._write_slot(self.rsp_prod, response)
        self.rsp_prod = advance(self.rsp_prod)

    def push_responses(self) -> bool:
        """Publish the responses; True if the frontend asked to be notified."""
        notify = self.words.push(_RSP_PROD, _RSP_EVENT, self._published, self.rsp_prod)
        self._published = self.rsp_prod
        return notify

    def final_check(self) -> int:
        """Ask for an event at the next request, then return `waiting`; 0: it is safe to sleep."""
        return self._check(self.words.final_check(_REQ_PROD, _REQ_EVENT, self.req_cons))

    def _check(self, untrusted_req_prod: int) -> int:
        if distance(untrusted_req_prod, self.rsp_prod) > self.slots:
            raise GuestFault(
                f"take requests: ring of {self.slots} slots: producer {untrusted_req_prod} is "
                f"{distance(untrusted_req_prod, self.rsp_prod)} ahead of {self.rsp_prod}"
            )
        waiting = distance(untrusted_req_prod, self.req_cons)
        if waiting > self.slots:
            raise GuestFault(
                f"take requests: ring of {self.slots} slots: producer {untrusted_req_prod} went "
                f"back behind {self.req_cons}"
            )
        return waiting


class FrontRing(_Ring):
    """The frontend's end, for guests in Python. It makes the ring, so it clears the header."""

    def __init__(self, address: int, slot_size: int, pages: int = 1) -> None:
        super().__init__(address, slot_size, pages)
        self.words.write(0, bytes(RING_HEADER))
        self.words.store_release(_REQ_EVENT, 1)
        self.words.store_release(_RSP_EVENT, 1)
        self.req_prod = 0
        self.rsp_cons = 0
        self._published = 0

    @property
    def free(self) -> int:
        """How many slots are free for requests."""
        return self.slots - distance(self.req_prod, self.rsp_cons)

    def put_request(self, request: bytes) -> None:
        """Write the next request; raises BackendBug if the ring is full."""
        if not self.free:
            raise BackendBug(f"put request: ring of {self.slots} slots: it is full")
        self._write_slot(self.req_prod, request)
        self.req_prod = advance(self.req_prod)

    def push_requests(self) -> bool:
        """Publish the requests; True if the backend asked to be notified."""
        notify = self.words.push(_REQ_PROD, _REQ_EVENT, self._published, self.req_prod)
        self._published = self.req_prod
        return notify

    def waiting(self) -> int:
        """How many responses can be taken; raises BackendBug if there are more than requests."""
        return self._check(self.words.load_acquire(_RSP_PROD))

    def take_response(self) -> bytes:
        """Copy the next response out. Call it only after `waiting` said that there is one."""
        response = self._read_slot(self.rsp_cons)
        self.rsp_cons = advance(self.rsp_cons)
        return response

    def final_check(self) -> int:
        """Ask for an event at the next response, then return `waiting`; 0: it is safe to sleep."""
        return self._check(self.words.final_check(_RSP_PROD, _RSP_EVENT, self.rsp_cons))

    def _check(self, untrusted_rsp_prod: int) -> int:
        waiting = distance(untrusted_rsp_prod, self.rsp_cons)
        if waiting > distance(self.req_prod, self.rsp_cons):
            raise BackendBug(
                f"take responses: ring of {self.slots} slots: producer {untrusted_rsp_prod} is "
                f"ahead of the requests ({self.req_prod})"
            )
        return waiting
