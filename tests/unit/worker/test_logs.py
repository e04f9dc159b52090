# SPDX-License-Identifier: MIT
"""Log lines: the device in front, a level per device, bounds on what guests cause (S25)."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from shared import logs
from shared.device_id import DeviceId

DEVICE = DeviceId("toy", 3, 51712)


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger("xenbackd")
    before = root.handlers[:], root.level, root.propagate
    yield
    root.handlers[:], level, root.propagate = before
    root.setLevel(level)


def test_s25_log_line_begins_with_the_device(capsys: pytest.CaptureFixture[str]) -> None:
    """Text lines: time, level, device, message, on stderr."""
    logs.setup()
    logs.DeviceLogger(DEVICE).warning("ring: %d slots", 32)

    assert capsys.readouterr().err.rstrip().endswith(" WARNING toy/3/51712: ring: 32 slots")


def test_s25_log_line_as_json_has_its_parts(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON lines carry the device apart from the message."""
    logs.setup("info", "json")
    logs.DeviceLogger(DEVICE).info("serving")
    logging.getLogger("xenbackd").info("of nobody's")

    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (first["device"], first["level"], first["message"]) == (
        "toy/3/51712",
        "info",
        "serving",
    )
    assert "device" not in second


def test_s25_log_level_is_one_per_device(capsys: pytest.CaptureFixture[str]) -> None:
    """One device at debug does not make another one talk; the level changes at run time."""
    logs.setup()
    quiet = logs.DeviceLogger(DEVICE, "error")
    loud = logs.DeviceLogger(DeviceId("toy", 4, 51712), "debug")
    quiet.warning("a")
    loud.debug("b")
    quiet.set_level("warning")
    quiet.warning("c")

    lines = capsys.readouterr().err.splitlines()
    assert [line[-15:] for line in lines] == [" toy/4/51712: b"[-15:], " toy/3/51712: c"[-15:]]


def test_s25_log_lines_of_a_guest_are_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    """A flood is cut, and the next line that passes says how much was left out."""
    now = [0.0]
    logs.setup()
    handler = logging.getLogger("xenbackd").handlers[0]
    handler.filters[:] = [logs.GuestLimit(burst=3, period=10, clock=lambda: now[0])]
    log = logs.DeviceLogger(DEVICE)
    for number in (*range(100), 100):
        if number == 100:
            now[0] = 10.0
        log.guest(logging.WARNING, "bad request %d", number)
    log.warning("of our own")

    lines = [line.split(": ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "bad request 0",
        "bad request 1",
        "bad request 2",
        "bad request 100 (suppressed 97)",
        "of our own",
    ]


def test_log_exception_is_followed_by_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """What nobody expected can be found in the log."""
    logs.setup()
    try:
        raise ValueError("why")
    except ValueError:
        logs.DeviceLogger(DEVICE).exception("worker ends")

    error = capsys.readouterr().err
    assert "ERROR toy/3/51712: worker ends\nTraceback" in error
    assert "ValueError: why" in error
