# SPDX-License-Identifier: MIT
"""What the exit status of a worker means.

Source of the numbers: `shared.errors` (sysexits.h). A status is as multiprocess gives it: an exit
code, or minus the signal's number, or None where it is not known because the fork server died
first. The status does not tell that we killed the worker, and why; the caller knows that.
"""

from __future__ import annotations

import signal
from typing import Final

from shared.errors import BackendBug, Blame, ConfigError, GuestFault, HostError
from supervisor.policy.restart import KIND_OF_BLAME, ExitKind

_CODES = {
    0: ExitKind.CLEAN,
    ConfigError.exit_code: ExitKind.CONFIG,
    GuestFault.exit_code: ExitKind.GUEST,
    HostError.exit_code: ExitKind.HOST,
    BackendBug.exit_code: ExitKind.CRASH,
    -signal.SIGSYS: ExitKind.SECURITY,
    -signal.SIGKILL: ExitKind.KILLED,
}


def classify(status: int | None) -> ExitKind:
    """The kind of an end; any unknown status is a crash."""
    return ExitKind.CRASH if status is None else _CODES.get(status, ExitKind.CRASH)


def describe(status: int | None) -> str:
    """For the log: "exit code 78" or "killed by SIGSEGV"."""
    if status is None:
        return "status unknown: nobody is left who was told it"
    if status >= 0:
        return f"exit code {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


_REMARKS: Final = {
    ExitKind.OOM: " by the kernel, for want of memory",
    ExitKind.KILLED: ", by neither the supervisor nor the kernel",
    ExitKind.SECURITY: ", a system call it may not make; quarantine",
}


def remark(kind: ExitKind) -> str:
    """What is known besides the status, for the log."""
    return _REMARKS.get(kind, "")


def blame_of(kind: ExitKind) -> Blame:
    """Who is to blame for an end."""
    for blame, known in KIND_OF_BLAME.items():
        if known is kind:
            return blame
    return Blame.US
