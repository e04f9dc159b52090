# SPDX-License-Identifier: MIT
"""Start the embedded hypervisor as a process and wait until it can be used."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Final

from shared.errors import HostError

START_TIMEOUT: Final = 60.0
"""Seconds until it must be ready, its xenstored included; an idle machine takes under one."""

_ROOT: Final = Path(__file__).resolve().parents[2]


def start_embedded(directory: Path, *, timeout: float = START_TIMEOUT) -> subprocess.Popen[bytes]:
    """Start the hypervisor on `directory` (made if missing); returns once guests can be made.

    The caller stops it with `terminate()` and waits for it. It has a session of its own, so a
    terminal's Ctrl-C does not reach it. What it has to say goes to our standard error.

    Raises:
        HostError: it ended, or was not ready in time; the cause is on standard error.
    """
    ready, tell = os.pipe()
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "shared.embedded.host"]
    try:
        process = subprocess.Popen(
            [*command, "--dir", str(directory), "--ready-fd", str(tell)],
            env={**os.environ, "PYTHONPATH": path},
            pass_fds=[tell],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
    except BaseException:
        os.close(ready)
        raise
    finally:
        os.close(tell)
    try:
        readable, _, _ = select.select([ready], [], [], timeout)
        if readable and os.read(ready, 1):
            return process
    finally:
        os.close(ready)
    # Asked first: killed, it could not take its xenstored with it.
    process.terminate()
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    cause = f"exit status {code}" if readable else f"not ready within {timeout:g} s"
    raise HostError(f"start embedded hypervisor: {directory}: {cause}")
