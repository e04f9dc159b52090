# SPDX-License-Identifier: MIT
"""Errors that carry blame.

The class of an error decides what happens next: restart, back-off, quarantine, log level and the
exit code of the process that ends with it. So every error raised on purpose is one of the four
classes of `BlamedError`, and whoever catches one never has to parse its text.

Messages follow one pattern: "<what failed>: <which object>: <cause>".
"""

from __future__ import annotations

import enum
import logging
from typing import ClassVar


class Blame(enum.Enum):
    """Who has to act so that the error goes away."""

    GUEST = "guest"
    OPERATOR = "operator"
    HOST = "host"
    US = "us"


class BlamedError(Exception):
    """Base of all errors raised on purpose. Never raised itself: pick the class with the blame."""

    blame: ClassVar[Blame]
    exit_code: ClassVar[int]
    """Exit code of a process that ends with this error (numbers of sysexits.h)."""
    log_level: ClassVar[int]


class GuestFault(BlamedError):
    """The frontend broke the protocol. What a guest can trigger at will is rate-limited in the log.

    Exit code 76 (EX_PROTOCOL). The device is closed in an orderly way; nothing else is affected.
    """

    blame = Blame.GUEST
    exit_code = 76
    log_level = logging.WARNING


class ConfigError(BlamedError):
    """The operator must act: configuration, a device's nodes, a file that is missing, permissions.

    Exit code 78 (EX_CONFIG). Not retried until what it complains about has changed.
    """

    blame = Blame.OPERATOR
    exit_code = 78
    log_level = logging.ERROR


class HostError(BlamedError):
    """The host failed us: storage, network, memory, a daemon that is away. Retried with back-off.

    Exit code 75 (EX_TEMPFAIL).
    """

    blame = Blame.HOST
    exit_code = 75
    log_level = logging.ERROR


class BackendBug(BlamedError):
    """An invariant of ours does not hold. Please report it with the log.

    Exit code 70 (EX_SOFTWARE).
    """

    blame = Blame.US
    exit_code = 70
    log_level = logging.CRITICAL
