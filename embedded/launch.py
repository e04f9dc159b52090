# SPDX-License-Identifier: MIT
"""Start the embedded hypervisor as a process and wait until it can be used."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from embedded.starting import start_process

START_TIMEOUT: Final = 60.0
"""Seconds until it must be ready, its xenstored included; an idle machine takes under one."""


def start_embedded(directory: Path, *, timeout: float = START_TIMEOUT) -> subprocess.Popen[bytes]:
    """Start the hypervisor on `directory` (made if missing); returns once guests can be made.

    Raises:
        HostError: it ended, or was not ready in time; the cause is on standard error.
    """
    return start_process("embedded.host", directory, "embedded hypervisor", timeout)
