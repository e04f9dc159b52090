# SPDX-License-Identifier: MIT
"""Scheduling slices: a worker that serves runs at once when its guest wants something.

On a host whose CPUs are busy, even if only with the start of another worker, a thread that wakes up
waits until the slice of the running thread ends. That takes a millisecond or more, many times as
long as a request. A thread with a shorter slice than the running one does not wait (Linux 6.12 and
later). So a ring loop, which works for microseconds and then sleeps, gets the shortest slice. The
supervisor and starting workers, which must give way, get a longer one than usual. The shares of the
CPUs do not change.

A starting worker copies a thousand pages that it shared with the fork server. If another of its
threads runs on another CPU at that time, each copy interrupts that CPU, which may be serving
another guest, and waits for its answer (flush_tlb_mm_range in arch/x86/mm/tlb.c). The wait is
longer still if a hypervisor below has taken that CPU away. So a worker keeps to one CPU until it
serves.
"""

from __future__ import annotations

import os
from typing import Final

from shared.native._slice import lib

SHORTEST: Final = 100_000
"""Nanoseconds; the kernel takes no less."""
LONG: Final = 4_000_000
"""Nanoseconds: longer than the usual slice, which is 0.7 ms on one CPU and 2.8 ms on eight or more.
Not much longer: on a busy host, a thread with a longer slice waits longer for its turn."""


def shorten_slice() -> str:
    """Ask for the shortest slice for this thread and those it starts; return what failed, or "".

    Call it before the jail is entered: its filter forbids the system call.
    """
    return _trouble(lib.slice_set(SHORTEST))


def lengthen_slice() -> str:
    """Ask for a long slice unless it is that long already; the rest is as in `shorten_slice`."""
    has: int = lib.slice_get()
    return _trouble(lib.slice_set(LONG) if 0 <= has < LONG else min(has, 0))


def stay_here() -> str:
    """Keep this process, which has one thread, on its present CPU until `roam`; return what failed,
    or "". If it failed, nothing has changed."""
    return _trouble(lib.slice_stay())


def roam() -> str:
    """Let all threads of this process run on the CPUs it had before `stay_here`, if that was
    called; return what failed, or ""."""
    return _trouble(lib.slice_roam())


def _trouble(error: int) -> str:
    return os.strerror(-error) if error else ""
