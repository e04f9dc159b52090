# SPDX-License-Identifier: MIT
"""What the kernel's scheduler says of a thread."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

_SCHED_GETATTR: Final = {"x86_64": 315, "aarch64": 275}[os.uname().machine]
_ATTRIBUTES: Final = struct.Struct("=IIQiIQQQ")
"""struct sched_attr (linux/sched/types.h), its first version."""


def slice_of(thread: int) -> int:
    """Nanoseconds a thread (0: this one) is run at a stretch; 0 before Linux 6.12."""
    out = ctypes.create_string_buffer(_ATTRIBUTES.size)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_SCHED_GETATTR, thread, out, _ATTRIBUTES.size, 0) < 0:
        raise OSError(ctypes.get_errno(), "sched_getattr")
    runtime: int = _ATTRIBUTES.unpack(out.raw)[5]
    return runtime


SLICES: Final = slice_of(0) > 0
"""Whether this kernel has slices that can be asked for."""
