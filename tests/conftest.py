# SPDX-License-Identifier: MIT
"""What holds for the whole run."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is, and nothing about us.
settings.register_profile("xenbackd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("xenbackd")


def pytest_configure() -> None:
    """Take Ctrl-C, even where whoever started us did not.

    A shell ignores it for what it starts with `&`, children inherit that, and a test that
    interrupts a command would wait for ever.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """`logs.setup` in one test takes the lines away from the next one's caplog."""
    log = logging.getLogger("xenbackd")
    before = log.handlers[:], log.propagate, log.level
    yield
    log.handlers[:], log.propagate = before[:2]
    log.setLevel(before[2])
