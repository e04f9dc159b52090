# SPDX-License-Identifier: MIT
"""Log lines on stderr, each with the name of the device it is about (S25).

A line is text (`2026-01-31 12:00:00.000 WARNING type/3/51712: ring: …`) or one JSON object. Each
device has a level of its own, which can change at run time. Lines that a guest can trigger at will
go through `DeviceLogger.guest`, which limits their rate and says how many it left out.

This module does not decide where stderr goes.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, MutableMapping
from typing import Any, Final, TextIO

import msgspec

from shared.device_id import DeviceId
from shared.ratelimit import RateLimit

BURST: Final = 10
"""How many guest-triggered lines from one place in the code pass in a row."""
PERIOD: Final = 6.0
"""Seconds until one more passes."""

_LEVELS: Final = logging.getLevelNamesMapping()
_root = logging.getLogger("xenbackd")
_devices = _root.getChild("device")
_set_up: tuple[str, str, TextIO] | None = None
"""Arguments of the last `setup`, and where lines went then."""


class GuestLimit(logging.Filter):
    """One `RateLimit` per place in the code, for records marked `guest`; others always pass.

    The first line that passes again says "suppressed N".
    """

    def __init__(
        self,
        burst: int = BURST,
        period: float = PERIOD,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._burst, self._period, self._clock = burst, period, clock
        self._limits: dict[tuple[str, int], RateLimit] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write the line."""
        if not getattr(record, "guest", False):
            return True
        place = (record.pathname, record.lineno)
        if place not in self._limits:
            self._limits[place] = RateLimit(self._burst, self._period)
        limit = self._limits[place]
        if not limit.allow(self._clock()):
            return False
        if suppressed := limit.take_suppressed():
            record.msg = f"{record.getMessage()} (suppressed {suppressed})"
            record.args = None
        return True


class DeviceLogger(logging.LoggerAdapter[logging.Logger]):
    """`log.info("…")` prints `INFO type/3/51712: …`."""

    def __init__(self, device: DeviceId, level: str = "info") -> None:
        super().__init__(_devices, {"device": str(device)})
        self._level = logging.INFO
        self.set_level(level)

    def set_level(self, level: str) -> None:
        """Change the level: debug, info, warning or error; applies to the next line."""
        self._level = _LEVELS[level.upper()]

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - the name is logging's
        """Whether this device wants lines of this level."""
        return level >= self._level

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the device to the record."""
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs

    def guest(self, level: int, msg: str, *args: object) -> None:
        """Log what a guest can trigger at will."""
        self.log(level, msg, *args, extra={"guest": True}, stacklevel=2)


class TextFormatter(logging.Formatter):
    """Time, level, device, message; a traceback follows on further lines."""

    default_msec_format = "%s.%03d"

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        device = getattr(record, "device", "")
        record.message = record.getMessage()
        prefix = f"{device}: " if device else ""
        line = f"{self.formatTime(record)} {record.levelname} {prefix}{record.message}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (ISO 8601, UTC), level, logger, device, pid, message."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        device = getattr(record, "device", "")
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if device:
            fields["device"] = device
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields).decode()


def setup(level: str = "info", format: str = "text") -> None:
    """Send the lines of this process to stderr. May be called again; the last call counts.

    `level` is for lines that are not about a device; each device has its own level.
    """
    global _set_up
    asked = (level, format, sys.stderr)
    if asked == _set_up:
        return  # the fork server did it; doing it again would write to pages that workers share
    _set_up = asked
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    handler.addFilter(GuestLimit())
    _root.handlers[:] = [handler]
    _root.propagate = False
    for logger, wanted in ((_root, _LEVELS[level.upper()]), (_devices, logging.DEBUG)):
        # Setting a level writes to every logger, in pages that workers share.
        if logger.level != wanted:
            logger.setLevel(wanted)
