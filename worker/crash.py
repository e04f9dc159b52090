# SPDX-License-Identifier: MIT
"""Crash marks: a worker that crashes marks that, and its successor finds the mark.

SIGKILL leaves no mark. On a crash, the handler of the signal writes one word into a file that
outlives the process. The C code of the device type says which word (worker/plane/crash.h). The
handler is in the worker's own native module, so a process has only one.
"""

from __future__ import annotations

from worker.native._process import ffi, lib


def watch() -> int:
    """Mark crashes from now on; return the address of the `struct plane_crash`, always the same.

    Call it after the handlers that write stacks were installed (`worker.trace`): the handler that
    is installed last runs first.
    """
    return int(ffi.cast("uintptr_t", lib.crash_watch()))
