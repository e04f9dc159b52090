# SPDX-License-Identifier: MIT
"""Start one of the embedded hypervisor's processes and wait until it can be used."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Final

from shared.errors import HostError

_ROOT: Final = Path(__file__).resolve().parents[1]


def start_process(
    module: str, directory: Path, what: str, timeout: float
) -> subprocess.Popen[bytes]:
    """Run `python -m module --dir directory --ready-fd N`; returns once it wrote to N.

    The caller stops it with `terminate()` and waits for it. It has a session of its own, so a
    terminal's Ctrl-C does not reach it. Its standard error is ours.

    Raises:
        HostError: it ended, or was not ready in time; the cause is on standard error.
    """
    ready, tell = os.pipe()
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", module, "--dir", str(directory), "--ready-fd", str(tell)]
    try:
        process = subprocess.Popen(
            command,
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
    except BaseException:  # Ctrl-C: nobody else would end it
        _end(process, timeout)
        raise
    finally:
        os.close(ready)
    code = _end(process, timeout)
    cause = f"exit status {code}" if readable else f"not ready within {timeout:g} s"
    raise HostError(f"start {what}: {directory}: {cause}")


def _end(process: subprocess.Popen[bytes], timeout: float) -> int:
    # Asked to end first: killed, it could not end its own children.
    process.terminate()
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
