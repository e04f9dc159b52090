# SPDX-License-Identifier: MIT
"""A dying worker says where it stands: the Python stack, then the native one, on stderr.

For SIGABRT, by which the supervisor ends a worker that hangs, and for the signals of a crash. The
handlers are installed once in the fork server; workers inherit them with its memory. The lines are
as the C library and Python write them, whatever the log's format; the pid stands in the
supervisor's line about the end.

Only the ring thread is traced natively: it is the one whose beats are missed, and the kernel hands
a process's signal to the main thread first.
"""

from __future__ import annotations

import faulthandler
import os
import sys

from shared.errors import HostError
from worker.native._trace import lib


def install() -> None:
    """Install both.

    Raises:
        HostError: the kernel refuses a handler.
    """
    # The native one first: faulthandler puts back what it found and raises the signal again.
    error = lib.trace_install()
    if error:
        raise HostError(f"signal handlers: this process: {os.strerror(-error)}")
    faulthandler.enable(sys.stderr, all_threads=True)
