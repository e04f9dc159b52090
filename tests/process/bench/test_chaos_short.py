# SPDX-License-Identifier: MIT
"""The chaos run in short: everything is killed once, and no guest notices more than a pause."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.root import ROOT

TIMEOUT = 240
"""Seconds; it takes about 20 of an idle machine."""


def test_chaos_short_run_ends_without_an_error_and_with_nothing_left() -> None:
    """Workers, supervisor, xenstored and a guest are killed under verified I/O; what is written
    can be read, every device is Connected at the end, nothing leaks."""
    what = "--seconds 8 --calm 1 --guests 4 --seed 622"
    run = subprocess.run(
        [sys.executable, "-m", "bench.chaos", *what.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    for deed in ("kill worker", "kill supervisor", "kill xenstored"):
        assert re.search(rf"deeds: .*{deed} [1-9].*; not possible", run.stdout), run.stdout
    assert re.search(r"[1-9][0-9]* units verified", run.stdout), run.stdout
