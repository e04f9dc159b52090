# SPDX-License-Identifier: MIT
"""An initramfs, written as root would have it whoever we are."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import BinaryIO

NAMES = ("dev", "proc", "sys", "tmp", "run", "mnt", "root", "etc")


class Initramfs:
    """Files put one by one into a "newc" archive; directories come with them."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._inode = 0
        self._made: set[str] = set()
        for name in NAMES:
            self.directory(name)

    def __enter__(self) -> Initramfs:
        return self

    def __exit__(self, *_: object) -> None:
        self._entry("TRAILER!!!", 0, b"")

    def directory(self, name: str) -> None:
        """A directory and those above it, once."""
        above, _, _ = name.rpartition("/")
        if above:
            self.directory(above)
        if name not in self._made:
            self._made.add(name)
            self._entry(name, stat.S_IFDIR | 0o755, b"")

    def file(self, name: str, content: bytes, mode: int = 0o755) -> None:
        """A regular file."""
        self._beneath(name)
        self._entry(name, stat.S_IFREG | mode, content)

    def copy(self, name: str, source: Path) -> None:
        """A regular file as it is on the host."""
        self.file(name, source.read_bytes())

    def link(self, name: str, target: str) -> None:
        """A symbolic link."""
        self._beneath(name)
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def _beneath(self, name: str) -> None:
        above, _, _ = name.rpartition("/")
        if above:
            self.directory(above)

    def _entry(self, name: str, mode: int, content: bytes) -> None:
        self._inode += 1
        text = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(text), 0)
        self._out.write(b"070701" + b"".join(b"%08x" % x for x in fields) + text)
        self._pad(6 + 13 * 8 + len(text))
        self._out.write(content)
        self._pad(len(content))

    def _pad(self, length: int) -> None:
        self._out.write(bytes(-length % 4))
