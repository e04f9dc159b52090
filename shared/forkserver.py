# SPDX-License-Identifier: MIT
"""Changes multiprocess's fork server for our workers; the fork server imports this module.

- Its children begin in `shared.forked`.
- At its end it waits for its children. They have closed the pipe by which it would know of them,
  because anything they wrote there would end it.
"""

from __future__ import annotations

import atexit
import contextlib
import os

from multiprocess import forkserver

from shared import forked


def reap_workers() -> None:
    """Stay the parent of the remaining workers when the supervisor is gone."""
    with contextlib.suppress(ChildProcessError):
        while os.wait():
            pass


forkserver._serve_one = forked.begin
atexit.register(reap_workers)
