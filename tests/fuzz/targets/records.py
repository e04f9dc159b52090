# SPDX-License-Identifier: MIT
"""What a supervisor reads of its predecessor: a file that says anything.

It names a worker of the device whose name it has, or it counts as none and is gone.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from shared.device_id import DeviceId
from shared.device_types import resolve
from supervisor.workers.records import DIRECTORY, Records, ring_identity

_DEVICE = DeviceId("vbd", 3, 51712)
_runtime = Path(tempfile.mkdtemp(prefix="xbf"))
atexit.register(shutil.rmtree, _runtime, ignore_errors=True)
(_runtime / DIRECTORY).mkdir(mode=0o700)
_records = Records(_runtime)
_path = _runtime / DIRECTORY / "vbd-3-51712"


def check(untrusted_data: bytes) -> None:
    """One file."""
    _path.write_bytes(untrusted_data)
    found = _records.load()
    for orphan in found.values():
        if orphan.pidfd is not None:
            os.close(orphan.pidfd)
    assert found.keys() <= {_DEVICE}, "a file speaks for another device than it is named after"
    assert _path.exists() == bool(found)
    ring_identity(resolve("block"), {"ring-ref": untrusted_data})
