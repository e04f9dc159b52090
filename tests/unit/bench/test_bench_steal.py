# SPDX-License-Identifier: MIT
"""The time the host of a virtual machine took, as a benchmark leaves it out."""

from __future__ import annotations

from bench import steal
from bench.steal import Steal

SECOND = 1_000_000_000


def test_steal_seconds_are_those_between_the_moments() -> None:
    """Spans count as far as they lie within."""
    taken = Steal()
    taken.spans = [(0, 2 * SECOND), (4 * SECOND, 5 * SECOND), (9 * SECOND, 10 * SECOND)]
    assert taken.seconds(SECOND, 9 * SECOND) == 2.0


def test_steal_samples_with_enough_taken_become_spans() -> None:
    """Those in a row are one; what is below the share, or no tick at all, is none."""
    taken = Steal()
    for sample in ((1, 2, 2, 100), (2, 3, 5, 100), (3, 4, 1, 100), (4, 5, 0, 0), (5, 6, 1, 50)):
        taken.note(*sample)
    assert taken.spans == [(1, 3), (5, 6)]


def test_steal_of_this_machine_is_part_of_all_ticks() -> None:
    """The fields are those of proc(5)."""
    ticks = steal.ticks()
    assert 0 <= ticks.stolen <= ticks.all - ticks.used < ticks.all
