# SPDX-License-Identifier: MIT
"""Prints the restart policy as Markdown: `python -m supervisor.policy.table`.

Two tables: what each kind of a worker's end leads to, and the figures with their defaults.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

import msgspec

from config.model import (
    DeviceTimeouts,
    LimitsConfig,
    RestartConfig,
    TimeoutsConfig,
)
from shared.device_types import DeviceType, own_types
from supervisor.policy.restart import RULES

_SECTIONS: Final[dict[str, type[msgspec.Struct]]] = {
    "restart": RestartConfig,
    "limits": LimitsConfig,
    "timeouts": TimeoutsConfig,
}


def rules() -> Iterator[tuple[str, str, str, str]]:
    """Rows (kind, seen as, what is done, counts for quarantine)."""
    for kind, rule in RULES.items():
        yield kind.value, rule.seen, rule.answer.value, rule.counts.value


def figures() -> Iterator[tuple[str, str, str]]:
    """Rows (key, default, whether types.TYPE can change it)."""
    for section, model in _SECTIONS.items():
        for field in msgspec.structs.fields(model):
            own = model is RestartConfig or field.name in DeviceTimeouts.__struct_fields__
            yield f"{section}.{field.name}", _default(field), "yes" if own else "no"


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default is None:
        common = DeviceType(name="", backend="").drain
        own = [f"{one.drain:g} for {one.name}" for one in own_types() if one.drain != common]
        return ", ".join([f"{common:g} unless the device type says otherwise", *own])
    return f"{field.default:g}"


def markdown() -> str:
    """Both tables as Markdown (docs/supervision.md holds them; a test keeps them equal)."""
    lines = ["| end | seen as | what is done | counts for quarantine |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rules()]
    lines += ["", "| key | default | per type |", "|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in figures()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
