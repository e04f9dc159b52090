# SPDX-License-Identifier: MIT
"""Shows the counters of a device as its type describes them (`shared.device_types`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shared.device_types import Counter
from supervisor.cli.text import amount, size

Counters = Mapping[str, int] | Mapping[str, float]


def totals(about: Sequence[Counter], counters: Counters) -> str:
    """Requests read and written since the worker started; "" for a type that counts neither."""
    if not _named(about, "read", "written"):
        return ""
    return f"{amount(_sum(about, 'read', counters))}/{amount(_sum(about, 'written', counters))}"


def rate_text(about: Sequence[Counter], before: Counters, after: Counters, seconds: float) -> str:
    """Requests and bytes per second between two looks; of a new worker since its start."""
    if seconds <= 0 or not any(name in after for name in _named(about, "read", "written")):
        return ""
    grown = {name: _growth(before.get(name, 0), now) / seconds for name, now in after.items()}
    moved = sum(grown.get(one.name, 0) * one.scale for one in about if one.role == "bytes")
    return f"{totals(about, grown)} {size(moved)}/s"


def lines(about: Sequence[Counter], counters: Counters) -> list[tuple[str, str]]:
    """Title and counters of each group, in the type's order; what it does not name comes last."""
    known = {one.name: one for one in about}
    others = [Counter(name, "") for name in sorted(counters.keys() - known.keys())]
    groups: dict[str, list[str]] = {}
    for one in (*about, *others):
        if one.name in counters:
            groups.setdefault(one.group, []).append(_shown(one, counters[one.name]))
    other = groups.pop("other", None)
    if other is not None:
        groups["other"] = other
    return [(title, ", ".join(shown)) for title, shown in groups.items()]


def _shown(counter: Counter, value: float) -> str:
    text = f"{counter.name} {value}"
    return f"{text} ({size(value * counter.scale)})" if counter.scale else text


def _named(about: Sequence[Counter], *roles: str) -> list[str]:
    return [one.name for one in about if one.role in roles]


def _sum(about: Sequence[Counter], role: str, counters: Counters) -> float:
    return sum(counters.get(name, 0) for name in _named(about, role))


def _growth(then: float, now: float) -> float:
    """A counter that is smaller than before belongs to a new worker."""
    return now - then if now >= then else now
