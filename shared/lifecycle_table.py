# SPDX-License-Identifier: MIT
"""Prints the transition table as Markdown: `python -m shared.lifecycle_table`."""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterator
from typing import Final

from shared import lifecycle_types as t
from shared.lifecycle_rule import Rule
from shared.lifecycle_rules import RULES
from shared.xenbus import XenbusState as X

_WORDS: Final = {
    "frontend_was_connected": ("frontend was Connected", "frontend was not Connected"),
    "renewed": ("ring taken up since", "ring not taken up since"),
    "hotplug_done": ("no hotplug script to wait for", "hotplug script to wait for"),
    "ignore_frontend_state": ("frontend's state ignored", "frontend's state counts"),
    "reconfigures": ("may reconfigure", "may not reconfigure"),
    "returns": ("frontends may return", "frontends never return"),
}


def table() -> Iterator[tuple[str, str, str, str]]:
    """Rows (name, when, does, why) of the transition table, in words."""
    for rule in RULES:
        when = ", ".join(_conditions(rule)) or "always"
        does = f"write {rule.writes}" if rule.writes is not None else _action_text(rule)
        yield rule.name, when, does, rule.why


def _conditions(rule: Rule) -> Iterator[str]:
    if rule.gone:
        yield "gone"
    for name in ("enabled", "online", "fault", "greeted"):
        value = getattr(rule, name)
        if value is not None:
            yield name if value else f"not {name}"
    for name in ("backend", "frontend", "worker", "hold"):
        chosen = getattr(rule, name)
        if chosen is not None:
            yield f"{name} {_set_text(chosen)}"
    for name, (held, not_held) in _WORDS.items():
        value = getattr(rule, name)
        if value is not None:
            yield held if value else not_held


def _set_text(chosen: frozenset[enum.Enum]) -> str:
    everything = list(type(next(iter(chosen))))
    rest = [item for item in everything if item not in chosen]
    if len(chosen) > len(everything) // 2 and rest:
        return "not " + "|".join(_value_text(item) for item in rest)
    return "|".join(_value_text(item) for item in everything if item in chosen)


def _value_text(item: enum.Enum) -> str:
    return str(item) if isinstance(item, X) else (item.value or "none")


def _action_text(rule: Rule) -> str:
    text = type(rule.action).__name__
    if isinstance(rule.action, t.AskInitialise) and rule.action.resume:
        text += " (resume)"
    return text + (f", worker {rule.to_worker.value}" if rule.to_worker else "")


def markdown() -> str:
    """The table as Markdown (docs/lifecycle.md holds it; a test keeps the two equal)."""
    lines = ["| rule | when | does | why |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
