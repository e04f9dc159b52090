# SPDX-License-Identifier: MIT
"""`make test-xen`: builds the bed, boots it, runs the tests. Exit status 77: cannot be had here."""

from __future__ import annotations

import signal
import sys
import time
from typing import Final

import pytest

from tests.xen.bed.image import Bed
from tests.xen.bed.packages import Unavailable

SKIPPED: Final = 77
PATIENCE: Final = 600
"""Seconds after which pytest says where a test stands."""


def main() -> int:
    """Build, then test."""
    # An orderly end is one that stops QEMU.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    bed = Bed()
    start = time.monotonic()
    try:
        with bed.mine():
            bed.build()
    except Unavailable as why:
        print(f"test-xen: skipped: {why}")  # noqa: T201
        return SKIPPED
    print(f"test-xen: {bed.directory} ready in {time.monotonic() - start:.0f} s")  # noqa: T201
    return pytest.main(
        ["-m", "xen", "-v", "-o", f"faulthandler_timeout={PATIENCE}", "tests/xen", *sys.argv[1:]]
    )


if __name__ == "__main__":
    sys.exit(main())
