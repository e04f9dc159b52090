# SPDX-License-Identifier: MIT
"""The fewest inputs of a Python target that go every way any of them goes: `minimise TARGET OUT
FOLDER…`.

A way is a step from one line to another in the modules that the catalogue names. The shortest
inputs are looked at first, and each that goes a new way is kept.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

from tests.fuzz.catalogue import PYTHON

Way = tuple[str, int, int]
_TraceFunction = Callable[[FrameType, str, Any], Any]


def ways(run: Callable[[bytes], None], data: bytes, files: frozenset[str]) -> set[Way]:
    """The steps within `files` that one input makes."""
    seen: set[Way] = set()

    def enter(frame: FrameType, event: str, _: Any) -> _TraceFunction | None:
        name = frame.f_code.co_filename
        if name not in files:
            return None
        last = 0

        def step(frame: FrameType, event: str, _: Any) -> _TraceFunction:
            nonlocal last
            seen.add((name, last, frame.f_lineno))
            last = frame.f_lineno
            return step

        return step

    sys.settrace(enter)
    try:
        run(data)
    finally:
        sys.settrace(None)
    return seen


def main() -> int:
    """Copy what is worth keeping into OUT."""
    logging.disable(logging.CRITICAL)
    name, out, *folders = sys.argv[1:]
    check: Final = importlib.import_module(f"tests.fuzz.targets.{name}").check
    files = frozenset(str(sys.modules[module].__file__) for module in PYTHON[name])
    inputs = {path.read_bytes() for folder in folders for path in Path(folder).iterdir()}
    known: set[Way] = set()
    for number, data in enumerate(sorted(inputs, key=lambda data: (len(data), data))):
        found = ways(check, data, files)
        if not found <= known:
            known |= found
            (Path(out) / f"{number:06}").write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
