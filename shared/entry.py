# SPDX-License-Identifier: MIT
"""First step of a worker, inside the process the fork server has just forked.

The supervisor names a worker's entry point as a string, so that it never imports worker code; the
string is resolved here. This module is what the supervisor and the fork server have in common,
so it imports nothing of either.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Final, cast

KEPT_VARIABLES: Final = frozenset({"PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR"})
"""Environment variables a worker keeps, besides those whose name starts with PYTHON."""


def run(entry_point: str, spec: bytes) -> None:
    """Call `package.module:function` with the encoded `WorkerSpec`; ends with the process.

    Raises:
        ImportError, AttributeError: the entry point does not exist; the process ends with 1.
    """
    # An interactive ^C goes to the whole foreground group; workers end when they are told to.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in list(os.environ):
        if name not in KEPT_VARIABLES and not name.startswith("PYTHON"):
            del os.environ[name]
    module_name, _, function_name = entry_point.partition(":")
    function = getattr(importlib.import_module(module_name), function_name)
    result = cast("Callable[[bytes], object]", function)(spec)
    if isinstance(result, int):
        sys.exit(result)
