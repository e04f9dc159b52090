# SPDX-License-Identifier: MIT
"""From the guests' records of every I/O to the pauses of `make chaos`, as the guests saw them.

A guest notes for each I/O when it asked and when it had the answer (CLOCK_MONOTONIC, as the deeds).
The pause of a kill is the longest that any I/O of this guest waited after it: those in flight at
that moment, and those asked for until the next deed to the same guest. Time in which the guest
asked for nothing is in no figure.
"""

from __future__ import annotations

import array
import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from bench.chaos_deeds import Done
from bench.chaos_plan import Deed

MS: Final = 1_000_000
WINDOW: Final = 1000 * MS
"""An I/O asked for so long after a kill (ns) has nothing to do with it."""
TOUCHED: Final = 500 * MS
"""A guest counts as hit for so long after a deed to it (ns)."""
_TO_WORKER: Final = (Deed.KILL, Deed.STOP)
_OUTAGES: Final = (Deed.SUPERVISOR, Deed.XENSTORED)

Span = tuple[int, int]


class Records:
    """All I/Os of one guest in the order of their answers; nanoseconds."""

    def __init__(self, path: Path) -> None:
        data = array.array("Q")
        if path.exists():
            data.frombytes(path.read_bytes())
        self.starts: Sequence[int] = data[0::2]
        self.ends: Sequence[int] = data[1::2]

    def longest_wait(self, after: int, before: int) -> int | None:
        """Longest wait from `after` on of what was asked before `before`; None: nothing was."""
        longest = None
        for index in range(bisect_left(self.ends, after), len(self.ends)):
            start, end = self.starts[index], self.ends[index]
            if start < before:
                longest = max(longest or 0, end - max(start, after))
            elif start > before + 2 * WINDOW:
                break
        return longest

    def latencies(
        self, begin: int, end: int, without: Sequence[Span], stolen: Sequence[Span]
    ) -> tuple[list[float], list[float]]:
        """Milliseconds, of the I/Os between two moments that touch none of `without`: of those
        that touch none of `stolen`, and of those that do (all spans sorted, and apart)."""
        undisturbed: list[float] = []
        disturbed: list[float] = []
        for index in range(bisect_left(self.ends, begin), bisect_left(self.ends, end)):
            start, answered = self.starts[index], self.ends[index]
            if start < begin or _touches(start, answered, without):
                continue
            to = disturbed if _touches(start, answered, stolen) else undisturbed
            to.append((answered - start) / MS)
        return undisturbed, disturbed


class Figures(NamedTuple):
    """Milliseconds, sorted."""

    pauses: list[float]
    """Of kills after which supervisor and xenstored were there until the guest was served again."""
    pauses_in_outages: list[float]
    pauses_stolen: list[float]
    """The same, in part while the host of the virtual machine took its CPUs away."""
    stops: list[float]
    """Of workers that were stopped; the time they were left so is in it."""
    outages: list[float]
    """For each killed supervisor, the longest wait of any guest."""
    calm: list[float]
    """Latencies while nothing was done."""
    calm_stolen: list[float]
    others: list[float]
    """Latencies of guests to which nothing was done, while only workers were killed."""
    others_stolen: list[float]
    others_in_outages: list[float]
    unseen: int
    """Kills at a moment when the guest asked for nothing."""


def make_figures(
    records: Sequence[Records],
    done: Sequence[Done],
    calm: Sequence[Span],
    chaos: Sequence[Span],
    busy: Iterable[Span],
    stolen: Sequence[Span],
) -> Figures:
    """Put records and deeds together; `busy` is when guests were made and compared, which takes the
    CPUs; `stolen` (sorted, apart) is when the host took them, and what touches it is told apart."""
    outages = _joined([(one.begin, one.end + TOUCHED) for one in done if one.deed in _OUTAGES])
    around = _joined([*outages, *busy])
    figures = Figures([], [], [], [], [], [], [], [], [], [], 0)
    unseen = 0
    for number, record in enumerate(records):
        own = [one for one in done if one.guest == number and one.deed in _TO_WORKER]
        own.sort(key=lambda one: one.begin)
        stopped = [(one.begin, one.end + TOUCHED) for one in own if one.deed is Deed.STOP]
        begins = [one.begin for one in own]
        for index, one in enumerate(own):
            if not _within(one.begin, chaos):
                continue
            until = min([one.end + WINDOW, *begins[index + 1 : index + 2]])
            wait = record.longest_wait(one.begin, until)
            if wait is None:
                unseen += 1
            elif one.deed is Deed.STOP:
                figures.stops.append(wait / MS)
            elif _meets(one.begin, one.begin + wait, [*outages, *stopped]):
                figures.pauses_in_outages.append(wait / MS)
            elif _meets(one.begin, one.begin + wait, stolen):
                figures.pauses_stolen.append(wait / MS)
            else:
                figures.pauses.append(wait / MS)
        hit = [(one.begin, one.end + TOUCHED) for one in own]
        for part in calm:
            undisturbed, disturbed = record.latencies(*part, (), stolen)
            figures.calm.extend(undisturbed)
            figures.calm_stolen.extend(disturbed)
        touched = _joined([*hit, *around])
        for part in chaos:
            undisturbed, disturbed = record.latencies(*part, touched, stolen)
            figures.others.extend(undisturbed)
            figures.others_stolen.extend(disturbed)
        hit = _joined(hit)
        for span in around:
            if _within(span[0], chaos):
                figures.others_in_outages.extend(record.latencies(*span, hit, stolen)[0])
    for one in done:
        if one.deed is Deed.SUPERVISOR:
            waits = [record.longest_wait(one.begin, one.end) or 0 for record in records]
            figures.outages.append(max(waits) / MS)
    for values in figures[:-1]:
        values.sort()
    return figures._replace(unseen=unseen)


def percentile(values: Sequence[float], share: float) -> float:
    """Of sorted values the one that `share` of them do not exceed; 0 of none."""
    return values[max(0, math.ceil(len(values) * share) - 1)] if values else 0.0


def _touches(first: int, last: int, spans: Sequence[Span]) -> bool:
    """Whether something from `first` to `last` meets one of the spans (sorted, apart)."""
    at = bisect_left(spans, (last,)) - 1
    return at >= 0 and spans[at][1] >= first


def _within(moment: int, spans: Iterable[Span]) -> bool:
    return any(begin <= moment < end for begin, end in spans)


def _meets(first: int, last: int, spans: Iterable[Span]) -> bool:
    return any(begin <= last and first <= end for begin, end in spans)


def _joined(spans: Iterable[Span]) -> list[Span]:
    """Sorted, and those that overlap made one."""
    joined: list[Span] = []
    for begin, end in sorted(spans):
        if joined and begin <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((begin, end))
    return joined
