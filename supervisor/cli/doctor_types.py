# SPDX-License-Identifier: MIT
"""What a finding of `doctor` consists of."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

XEN: Final = "real Xen"
EMBEDDED: Final = "embedded hypervisor"
BOTH: Final = (XEN, EMBEDDED)


class Level(enum.Enum):
    """How a finding is meant."""

    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    section: str
    level: Level
    subject: str
    text: str
    remedy: str = ""
    blocks: tuple[str, ...] = ()
    """What cannot be served: of `BOTH`."""
