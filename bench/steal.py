# SPDX-License-Identifier: MIT
"""When the host of this virtual machine took its CPUs away, which is nobody's doing here.

The kernel counts it (`steal` in /proc/stat, proc(5)) in clock ticks of all CPUs. A latency that was
measured meanwhile says nothing of this program; a comparison of two phases leaves it out of both.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Final, NamedTuple

PERIOD: Final = 0.5
"""Seconds of a sample: 50 clock ticks of each CPU."""
TAKEN: Final = 0.02
"""Share of the CPUs in a sample from which on it counts."""


class Steal:
    """Samples from `start` to `stop`."""

    def __init__(self) -> None:
        self.spans: list[tuple[int, int]] = []
        """Samples in which CPUs were taken (CLOCK_MONOTONIC, ns); those that touch are one."""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="steal", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; `spans` is complete."""
        self._stopped.set()
        self._thread.join()

    def seconds(self, begin: int, end: int) -> float:
        """How long CPUs were taken between two moments (ns)."""
        return sum(max(0, min(end, b) - max(begin, a)) for a, b in self.spans) / 1e9

    def note(self, begin: int, end: int, taken: int, all_: int) -> None:
        """A sample: between two moments (ns), so many of all clock ticks were taken."""
        if taken < max(1, TAKEN * all_):
            return
        if self.spans and self.spans[-1][1] == begin:
            begin = self.spans.pop()[0]
        self.spans.append((begin, end))

    def _sample(self) -> None:
        then, before = time.monotonic_ns(), ticks()
        while not self._stopped.wait(PERIOD):
            now, after = time.monotonic_ns(), ticks()
            self.note(then, now, after.stolen - before.stolen, after.all - before.all)
            then, before = now, after


class Ticks(NamedTuple):
    """Clock ticks of all CPUs since boot."""

    used: int
    stolen: int
    """Taken by the host while something here was to be run."""
    all: int


def ticks() -> Ticks:
    """As the kernel has counted until now."""
    line = Path("/proc/stat").read_text().split("\n", 1)[0]
    user, nice, system, idle, iowait, irq, softirq, stolen = map(int, line.split()[1:9])
    used = user + nice + system + irq + softirq
    return Ticks(used, stolen, used + idle + iowait + stolen)
