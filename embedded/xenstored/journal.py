# SPDX-License-Identifier: MIT
"""The store on file, for the next process: appended to, and rewritten when it has grown.

A record is one request's changes, so that a replay stops between requests and never within one:
length and CRC-32 (32 bits each, little-endian), then the changes in MessagePack. What has been
written survives SIGKILL, since it is in the kernel's page cache. It is not synced: when the machine
goes down, so do all the domains the store is about.

A torn last record is normal (killed while writing) and ignored. A rewrite goes to a second file
that takes the first one's place at the end, so one of them is always complete.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from embedded.xenstored.store import Change, Store, decode
from shared.errors import HostError

GROWTH_MIN: Final = 1024 * 1024
"""Bytes the file must have grown by before it is rewritten, so that small stores seldom are."""
GROWTH_FACTOR: Final = 4
"""How many times its size after the last rewrite the file may reach."""
RECORD_CHANGES_MAX: Final = 1000
"""Changes per record in a rewrite; keeps records small."""

_MAGIC: Final = b"xenbackd store 1\n"
_HEAD: Final = struct.Struct("<II")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[list[Any]]).decode

log = logging.getLogger(__name__)


class Journal:
    """The file behind a store. `load`, then `record` after each request and `flush` per batch."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._size = 0
        self._limit = 0
        self._pending = bytearray()

    def load(self, store: Store) -> None:
        """Replay the file into a new store and rewrite it.

        Raises:
            HostError: the file can't be read or written, or is not a journal.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            data = _MAGIC
        except OSError as error:
            raise HostError(f"store: {self._path}: {error.strerror}") from error
        if not data.startswith(_MAGIC) and data:
            raise HostError(f"store: {self._path}: no journal of this program; move it away")
        self._replay(store, data)
        self.compact(store)

    def record(self, changes: list[Change]) -> None:
        """Note the changes of one request; they are written by `flush`."""
        body = _encode(changes)
        self._pending += _HEAD.pack(len(body), zlib.crc32(body)) + body

    def flush(self, store: Store) -> None:
        """Write what was noted. To be called before any client is told that it has happened.

        Raises:
            HostError: the file can't be written.
        """
        if not self._pending:
            return
        self._write(self._fd, self._pending)
        self._size += len(self._pending)
        self._pending.clear()
        if self._size > self._limit:
            self.compact(store)

    def compact(self, store: Store) -> None:
        """Rewrite the file from the store."""
        path = self._path.with_name(self._path.name + ".new")
        self._pending.clear()
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(path, flags, 0o600)
        except OSError as error:
            raise HostError(f"store: {path}: {error.strerror}") from error
        self._write(fd, _MAGIC)
        changes: list[Change] = []
        for change in store.dump():
            changes.append(change)
            if len(changes) == RECORD_CHANGES_MAX:
                self.record(changes)
                changes = []
        self.record(changes)
        self._write(fd, self._pending)
        self._size = len(_MAGIC) + len(self._pending)
        self._limit = max(GROWTH_MIN + self._size, GROWTH_FACTOR * self._size)
        self._pending.clear()
        path.replace(self._path)
        self.close()
        self._fd = fd

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, fd: int, data: bytes | bytearray) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(fd, view) :]
        except OSError as error:
            raise HostError(f"store: {self._path}: {error.strerror}") from error
        finally:
            view.release()

    def _replay(self, store: Store, data: bytes) -> None:
        offset = len(_MAGIC)
        while offset + _HEAD.size <= len(data):
            length, crc = _HEAD.unpack_from(data, offset)
            body = data[offset + _HEAD.size : offset + _HEAD.size + length]
            if len(body) < length:
                break
            if zlib.crc32(body) != crc:
                log.warning(
                    "store: %s: record at byte %d is damaged; it and all after it are ignored",
                    self._path,
                    offset,
                )
                break
            for change in _decode(body):
                _apply(store, change)
            offset += _HEAD.size + length
        store.take_changes()


def _apply(store: Store, change: Sequence[Any]) -> None:
    match change:
        case ["put", str(path), bytes(value), str(perms)]:
            store.restore(path, value, decode(perms))
        case ["drop", str(path)]:
            store.restore_drop(path)
        case ["introduce", int(domid)]:
            store.introduce(domid)
        case ["release", int(domid)]:
            store.domains.discard(domid)
        case _:
            raise HostError(f"store: journal: unknown entry {change!r}: of a newer version?")
