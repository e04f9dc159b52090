# SPDX-License-Identifier: MIT
"""Starts the embedded xenstored as a process and waits until it can be used."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Final

from shared.errors import HostError

START_TIMEOUT: Final = 30.0
"""Seconds until the server must be ready; it takes a fraction of one on an idle machine."""

_ROOT: Final = Path(__file__).resolve().parents[3]


def start_xenstored(
    directory: Path | str, *, timeout: float = START_TIMEOUT
) -> subprocess.Popen[bytes]:
    """Start a server on `directory` (made if missing) and return once it accepts connections.

    The caller stops it by `terminate()` and waits for it. It has no terminal's signals: it is in
    a session of its own. What goes wrong in it is on our standard error.

    Raises:
        HostError: it ended or was not ready in time.
    """
    ready, tell = os.pipe()
    try:
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "shared.embedded.xenstored",
                "--dir",
                str(directory),
                "--ready-fd",
                str(tell),
            ],
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
    process.kill()
    code = process.wait()
    cause = f"exit status {code}" if readable else f"not ready within {timeout:g} s"
    raise HostError(f"start of the embedded xenstored: {directory}: {cause}")
