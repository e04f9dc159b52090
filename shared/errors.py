# SPDX-License-Identifier: MIT
"""Errors that carry blame.

The class of an error decides what happens next: restart, back-off, quarantine, log level and the
exit code of the process that ends with it. So every error raised on purpose is one of the four
subclasses of `BlamedError`, and no caller has to parse the text of an error.

Messages follow one pattern: "<what failed>: <which object>: <cause>".
"""

from __future__ import annotations

import enum
import logging
from typing import ClassVar


class Blame(enum.Enum):
    """Who must act so that the error goes away."""

    GUEST = "guest"
    OPERATOR = "operator"
    HOST = "host"
    US = "us"


class BlamedError(Exception):
    """Base of all errors raised on purpose. Never raised itself: use the subclass for the blame."""

    blame: ClassVar[Blame]
    exit_code: ClassVar[int]
    """Exit code of a process that ends with this error, as in sysexits.h."""
    log_level: ClassVar[int]


class GuestFault(BlamedError):
    """The frontend broke the protocol.

    Exit code 76 (EX_PROTOCOL). The device is closed in an orderly way; nothing else is affected. A
    guest can trigger this at will, so the log limits its rate.
    """

    blame = Blame.GUEST
    exit_code = 76
    log_level = logging.WARNING


class ConfigError(BlamedError):
    """The operator must act: wrong configuration or nodes of a device, a missing file, permissions.

    Exit code 78 (EX_CONFIG). Not retried until the configuration or the nodes have changed.
    """

    blame = Blame.OPERATOR
    exit_code = 78
    log_level = logging.ERROR


class HostError(BlamedError):
    """The host failed: storage, network, memory, a daemon that is away.

    Exit code 75 (EX_TEMPFAIL). Retried with back-off.
    """

    blame = Blame.HOST
    exit_code = 75
    log_level = logging.ERROR


class BackendBug(BlamedError):
    """One of our invariants does not hold. Please report it with the log.

    Exit code 70 (EX_SOFTWARE).
    """

    blame = Blame.US
    exit_code = 70
    log_level = logging.CRITICAL


def blamed(blame: Blame, text: str) -> BlamedError:
    """The error of that blame, for what another process says of its own."""
    for kind in (GuestFault, ConfigError, HostError):
        if kind.blame is blame:
            return kind(text)
    return BackendBug(text)
