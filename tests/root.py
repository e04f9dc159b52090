# SPDX-License-Identifier: MIT
"""Where the checkout is, in one place: a test that moves to another room keeps working."""

from __future__ import annotations

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
