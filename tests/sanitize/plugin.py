# SPDX-License-Identifier: MIT
"""For pytest under the address sanitizer: only this process looks for leaks at its end.

Those it starts, compilers among them, leak by design and would fail by it; they read their options
when they start.
"""

from __future__ import annotations

import os


def pytest_configure() -> None:
    """Hand children the options without leaks."""
    os.environ["ASAN_OPTIONS"] = os.environ["XENBACKD_CHILD_ASAN_OPTIONS"]
