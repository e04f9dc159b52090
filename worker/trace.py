# SPDX-License-Identifier: MIT
"""A dying worker says where it stands: the Python stack, then the native one, on stderr.

For SIGABRT, by which the supervisor ends a worker that hangs, and for the signals of a crash. The
handlers are installed once in the fork server; workers inherit them with its memory. The lines are
as the C library and Python write them, in any format of the log; the pid stands in the supervisor's
line about the end.

Only the ring thread is traced natively: it is the one whose beats are missed, and the kernel hands
a process's signal to the main thread first.

What no code catches (an exception in a destructor, at the end of a thread) becomes a line of the
log: Python itself would open the source file to show it, which ends a jailed worker.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
from types import TracebackType
from typing import Final

from shared.errors import HostError
from worker.native._process import lib

_log: Final = logging.getLogger("xenbackd.trace")


def install() -> None:
    """Install all of them.

    Raises:
        HostError: the kernel refuses a handler.
    """
    # The native one first: faulthandler puts back what it found and raises the signal again.
    error = lib.trace_install()
    if error:
        raise HostError(f"signal handlers: this process: {os.strerror(-error)}")
    faulthandler.enable(sys.stderr, all_threads=True)
    sys.unraisablehook = log_unraisable
    sys.excepthook = log_uncaught
    threading.excepthook = log_end_of_thread


def log_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Log what `sys.unraisablehook` is called with."""
    _log.error(
        "%s %r: an error nobody can catch",
        unraisable.err_msg or "exception ignored in",
        unraisable.object,
        exc_info=unraisable.exc_value,
    )


def log_uncaught(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Log what `sys.excepthook` is called with."""
    _log.error("an error nobody caught", exc_info=(kind, error, traceback))


def log_end_of_thread(end: threading.ExceptHookArgs) -> None:
    """Log what `threading.excepthook` is called with."""
    if issubclass(end.exc_type, SystemExit):
        return  # how a thread may end
    name = end.thread.name if end.thread else "that is gone"
    _log.error("thread %s: an error nobody caught", name, exc_info=end.exc_value)
