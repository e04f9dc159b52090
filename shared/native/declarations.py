# SPDX-License-Identifier: MIT
"""Makes C headers readable for cffi, so that each function is declared once. For building only.

Such a header may hold only plain declarations: no macro with an argument or over several lines, and
nothing that only a compiler knows (`_Static_assert`, `__attribute__`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
"""Root of the checkout."""

_NUMBER: Final = re.compile(r"#define \w+ (0x[0-9a-fA-F]+|\d+)[uUlL]*\s*(/\*.*\*/\s*)?$")


def declarations(*headers: str) -> str:
    """The headers' text without preprocessor lines, except those that name numbers.

    `headers` are paths below `ROOT`, each after those it needs.
    """
    return "\n".join(
        line
        for header in headers
        for line in (ROOT / header).read_text(encoding="ascii").splitlines()
        if not line.startswith("#") or _NUMBER.match(line)
    )
