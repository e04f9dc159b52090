# SPDX-License-Identifier: MIT
"""Makes a dying worker print where it is: the Python stack, then the native one, on stderr.

This is for SIGABRT, by which the supervisor ends a worker that hangs, and for the signals of a
crash. The handlers are installed once in the fork server; workers inherit them with its memory. The
C library and Python write the lines, whatever the format of the log is; the supervisor's line about
the end has the pid.

The native trace shows only the ring thread. Its beats are the ones that are missed, and the kernel
delivers a signal for the process to the main thread first.

An exception that no code catches (in a destructor, at the end of a thread) becomes a line of the
log: Python itself would open the source file to show it, and a jailed worker is killed for that.
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
    """Install the handlers, and the hooks for exceptions that no code catches.

    Raises:
        HostError: the kernel refuses a handler.
    """
    # The native handler first: faulthandler restores what it found and raises the signal again.
    error = lib.trace_install()
    if error:
        raise HostError(f"signal handlers: this process: {os.strerror(-error)}")
    faulthandler.enable(sys.stderr, all_threads=True)
    sys.unraisablehook = log_unraisable
    sys.excepthook = log_uncaught
    threading.excepthook = log_end_of_thread


def log_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Log the exception that `sys.unraisablehook` is called with."""
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
