# SPDX-License-Identifier: MIT
"""What `make chaos` does to whom and when: all of it follows from one seed.

A plan says what is attempted. Whether the worker that it names exists at that moment depends on how
fast the machine is, so two runs of one plan are alike and not the same.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from bench.lab import DEFAULT_CONFIG

BEAT_DEAD: Final = 2.0
"""Seconds without a beat after which the supervisor kills a worker that was left stopped."""

CONFIG: Final[Mapping[str, Any]] = {
    **DEFAULT_CONFIG,
    # A policy that neither waits nor quarantines: each failure is forgotten at once.
    "restart": {"initial": 0, "jitter": 0, "stable_after": 0, "quarantine_failures": 100_000},
    "limits": {
        "domain_restarts": 100_000,
        "domain_window": 1,
        "restart_rate": 100_000,
        "restart_burst": 100_000,
    },
    "timeouts": {"beat": 0.2, "beat_late": 1, "beat_dead": BEAT_DEAD, "abort": 0.5, "drain": 10},
}

KILL_PAUSE: Final = (0.1, 0.5)
"""Seconds between two deeds to workers."""
STOP_SHARE: Final = 0.06
"""Of these deeds, how many stop the worker instead of killing it."""
STOP_LENGTH: Final = (0.1, 1.5)
"""Seconds until a stopped worker is continued; every third one is left to the watchdog."""
XENSTORED_PAUSE: Final = (6.0, 14.0)
SUPERVISOR_PAUSE: Final = (10.0, 20.0)
REBOOT_PAUSE: Final = (3.0, 9.0)


class Deed(enum.Enum):
    """What is done."""

    KILL = "kill worker"
    STOP = "stop worker"
    """And continue it after `seconds`; 0: leave it to the watchdog."""
    SUPERVISOR = "kill supervisor"
    XENSTORED = "kill xenstored"
    REBOOT = "reboot guest"
    CRASH = "crash guest's kernel"
    """Its frontends begin again without having closed."""
    RECREATE = "destroy and create guest"


class Step(NamedTuple):
    """One line of the plan."""

    at: float
    """Seconds from the beginning of the chaos."""
    deed: Deed
    guest: int
    """Number of the guest; -1 where it concerns none."""
    seconds: float = 0.0

    def __str__(self) -> str:
        whom = f" {self.guest}" if self.guest >= 0 else ""
        length = f" for {self.seconds:.2f} s" if self.seconds else ""
        return f"{self.at:8.3f}  {self.deed.value}{whom}{length}"


def make_plan(seed: int, seconds: float, guests: int) -> list[Step]:
    """The steps in order of time, for `seconds` and that many guests."""
    chance = random.Random(seed)
    steps: list[Step] = []
    at = 0.0
    while (at := at + chance.uniform(*KILL_PAUSE)) < seconds:
        steps.append(_to_worker(chance, at, chance.randrange(guests)))
    for deed, pause in ((Deed.XENSTORED, XENSTORED_PAUSE), (Deed.SUPERVISOR, SUPERVISOR_PAUSE)):
        at = -chance.uniform(0, pause[0])
        while (at := at + chance.uniform(*pause)) < seconds:
            if at > 0:
                steps.append(Step(at, deed, -1))
    at = 0.0
    while (at := at + chance.uniform(*REBOOT_PAUSE)) < seconds:
        deed = chance.choice((Deed.REBOOT, Deed.CRASH, Deed.RECREATE))
        steps.append(Step(at, deed, chance.randrange(guests)))
    return sorted(steps, key=lambda step: step.at)


def _to_worker(chance: random.Random, at: float, guest: int) -> Step:
    if chance.random() >= STOP_SHARE:
        return Step(at, Deed.KILL, guest)
    length = 0.0 if chance.randrange(3) == 0 else chance.uniform(*STOP_LENGTH)
    return Step(at, Deed.STOP, guest, length)
