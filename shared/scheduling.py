# SPDX-License-Identifier: MIT
"""What serves a guest is run as soon as the guest wants something, also where CPUs are in use.

On a host whose CPUs are busy, and be it with the start of another worker, a thread that wakes up
waits for the running one's slice to end: a millisecond or more, which is many times what a request
takes. A thread with a shorter slice than the running one does not wait (Linux 6.12 and later). So
a ring loop, which works for microseconds and sleeps, has the shortest; and what everything else
goes before, the supervisor and workers that start, has one longer than usual. Nobody's share of
the CPUs changes by it.

A worker that starts copies a thousand pages that it shared with the fork server. Where another
thread of it runs on another CPU at that time, each of them interrupts that CPU, which may be
serving somebody's guest, and waits for its answer (flush_tlb_mm_range of arch/x86/mm/tlb.c); longer
still where a hypervisor below has taken that CPU away. So until it serves it keeps to one.
"""

from __future__ import annotations

import os
from typing import Final

from shared.native._slice import lib

SHORTEST: Final = 100_000
"""Nanoseconds; the kernel takes no less."""
LONG: Final = 4_000_000
"""More than the usual slice, which is 0.7 ms on one CPU and 2.8 ms on eight and more, but not much
more: the longer it is, the longer waits who has it where everybody wants a CPU."""


def shorten_slice() -> str:
    """Ask for the shortest slice, for this thread and those it starts; what went wrong, or "".

    Before the jail is entered: its filter does not let the call pass.
    """
    return _trouble(lib.slice_set(SHORTEST))


def lengthen_slice() -> str:
    """Ask for a long slice, unless it is that long; for whom and what is given as above."""
    has: int = lib.slice_get()
    return _trouble(lib.slice_set(LONG) if 0 <= has < LONG else min(has, 0))


def stay_here() -> str:
    """Keep this process, which has one thread, to the CPU it is running on, until `roam`; what went
    wrong, or "": then nothing has changed."""
    return _trouble(lib.slice_stay())


def roam() -> str:
    """Let all threads of this process run again where it could before `stay_here`, if that was
    called; what went wrong, or ""."""
    return _trouble(lib.slice_roam())


def _trouble(error: int) -> str:
    return os.strerror(-error) if error else ""
