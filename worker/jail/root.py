# SPDX-License-Identifier: MIT
"""The step that takes away the file system, except the directory of the supervisor's socket.

A tmpfs becomes the root. It contains only the directory of the socket, under its own path, so the
bus reconnects to the next process that binds a socket there. It has the directory and not the
socket, because a socket that is bound again is another file.

Facts: the tmpfs is mounted over the directory itself, because only that place is known to exist. A
descriptor that was opened before still reaches the covered directory. A read-only mount does not
hinder connect(2), which looks at the socket's own mode. All threads share one view of the file
system (CLONE_FS), so all of them move.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import Final

from worker.jail import kernel

_STRICT: Final = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
_TMPFS: Final = "mode=0755,size=64k,nr_inodes=64"
"""Room for a few empty directories."""


@dataclass(frozen=True, slots=True)
class EmptyRoot:
    """See the module."""

    keep: str
    name: str = "root"

    def describe(self) -> str:
        return f"root directory empty except {self.keep}, read-only"

    def execute(self) -> None:
        kept = os.open(self.keep, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            kernel.mount("none", self.keep, "tmpfs", _STRICT, _TMPFS)
            inside = self._make_inside()
            kernel.mount(f"/proc/self/fd/{kept}", inside, flags=kernel.MS_BIND)
        finally:
            os.close(kept)
        read_only = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | _STRICT
        for place in (inside, self.keep):
            kernel.mount("none", place, flags=read_only)
        os.chdir(self.keep)
        _pivot()
        os.chdir("/")

    def _make_inside(self) -> str:
        place = self.keep
        for part in self.keep.strip("/").split("/"):
            place = f"{place}/{part}"
            os.mkdir(place)  # noqa: PTH102
            # Independent of the umask, because the uid is about to change.
            os.chmod(place, 0o755)  # noqa: PTH101, S103
        return place


def _pivot() -> None:
    """Make the working directory the root, and unmount the old one."""
    try:
        kernel.pivot_root(".", ".")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # The root of an initramfs cannot be pivoted away. But a process that may neither mount nor
        # chroot cannot reach what is covered.
        kernel.mount(".", "/", flags=kernel.MS_MOVE)
        os.chroot(".")
        return
    # Both roots are mounted at "/" now, the old one on top.
    kernel.umount(".", kernel.MNT_DETACH)
