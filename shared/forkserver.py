# SPDX-License-Identifier: MIT
"""Imported by the fork server: what it and its children do otherwise than multiprocess has it.

- Its children begin in `shared.forked`.
- At its end it waits for them. They have closed the pipe by which it would know of them: what they
  could write there would end it.
"""

from __future__ import annotations

import atexit
import contextlib
import os

from multiprocess import forkserver

from shared import forked


def reap_workers() -> None:
    """Stay the parent of the workers that are left, when the supervisor is gone."""
    with contextlib.suppress(ChildProcessError):
        while os.wait():
            pass


forkserver._serve_one = forked.begin
atexit.register(reap_workers)
