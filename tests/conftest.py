# SPDX-License-Identifier: MIT
"""What holds for the whole run."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Take Ctrl-C, even where whoever started us did not.

    A shell ignores it for what it starts with `&`, children inherit that, and a test that
    interrupts a command would wait for ever.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
