# SPDX-License-Identifier: MIT
"""Starts the embedded xenstored as a process and waits until it can be used."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from embedded.starting import start_process

START_TIMEOUT: Final = 30.0
"""Seconds until the server must be ready; it takes a fraction of one on an idle machine."""


def start_xenstored(directory: Path, *, timeout: float = START_TIMEOUT) -> subprocess.Popen[bytes]:
    """Start a server on `directory` (made if missing) and return once it accepts connections.

    Raises:
        HostError: it ended or was not ready in time.
    """
    return start_process("embedded.xenstored", directory, "embedded xenstored", timeout)
