# SPDX-License-Identifier: MIT
"""A worker that dies of itself marks that it did, where its successor looks.

SIGKILL cannot be marked; a crash can, by the handler of its signal, which writes one word into a
file that outlives the process. Which word, the device type's C says (worker/plane/crash.h). The
handler is in the framework's own native module, so that there is one in a process.
"""

from __future__ import annotations

from worker.native._process import ffi, lib


def watch() -> int:
    """Mark crashes from now on. The address of the `struct plane_crash`, the same each time.

    To be called after the handlers that write stacks are there (`worker.trace`): what is installed
    last runs first.
    """
    return int(ffi.cast("uintptr_t", lib.crash_watch()))
