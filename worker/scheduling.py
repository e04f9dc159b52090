# SPDX-License-Identifier: MIT
"""A worker that serves is run as soon as its guest wants something, also where CPUs are in use.

On a host whose CPUs are busy, and be it with the start of another worker, a thread that wakes up
waits for the running one's slice to end: a millisecond or more, which is many times what a request
takes. A thread with a shorter slice does not wait (Linux 6.12 and later). A ring loop works for
microseconds and sleeps, so it loses nothing by it. Workers that start keep the usual slice, and so
are what serving ones go before.
"""

from __future__ import annotations

import os

from worker.native._slice import lib


def shorten_slice() -> str:
    """Ask for the shortest slice, for this thread and those it starts; what went wrong, or "".

    Before the jail is entered: its filter does not let the call pass.
    """
    error = lib.slice_shorten()
    return os.strerror(-error) if error else ""
