# SPDX-License-Identifier: MIT
"""A jailed worker logs its errors and lives: nothing that Python shows of them opens a file."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import pytest

from shared.device_id import DeviceId
from shared.worker_spec import JailSpec, WorkerSpec
from tests.fakes.raising import KINDS
from tests.root import ROOT
from worker.jail import seccomp

pytestmark = pytest.mark.skipif(
    not seccomp.available().kills, reason="this kernel has no system-call filter"
)

# By -c, as the fork server is started: Python asks for its directory only then. An error is logged
# before, so that the lines of the file are held when the jail is entered.
INSIDE = """
import sys
import worker.preload
from shared import device_types, logs
from shared.worker_spec import WorkerSpec
from tests.fakes import raising
from tests.fakes.toy.about import TYPE
from worker.jail.jail import Jail

device_types.RESOLVED[TYPE.name] = TYPE

spec = WorkerSpec.decode(bytes.fromhex(sys.argv[1]))
jail = Jail(spec, spec.jail, max_grants=0, descriptors=())
log = logs.DeviceLogger(spec.device)
raising.DEVICE = spec.device
raising.log_all(log, "before", ["several lines"])
jail.birth()
jail.enter()
for format in ("text", "json"):
    logs.setup("info", format)
    raising.log_all(log, format)
"""


@pytest.fixture(scope="module")
def log() -> str:
    """What a jailed worker wrote that was confronted with all of them, in both formats."""
    with tempfile.TemporaryDirectory() as keep:
        jail = JailSpec(
            mode="enforce",
            uid=1_879_048_192 + 30_000 if os.geteuid() == 0 else 0,
            keep=keep,
            open_files=128,
            pids=64,
        )
        spec = WorkerSpec(
            device=DeviceId("toy", 1, 51712),
            generation=1,
            backend_domid=0,
            handler="toy",
            options={},
            endpoint=f"{keep}/workers.sock",
            hypervisor="embedded",
            embedded_dir=keep,
            supervisor_pid=os.getpid(),
            jail=jail,
        )
        done = subprocess.run(
            [sys.executable, "-c", INSIDE, spec.encode().hex()],
            cwd=ROOT,
            # What newer versions of Python look at before they write in colour.
            env={**os.environ, "FORCE_COLOR": "1", "PYTHON_COLORS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
    return f"{done.stderr}\nstatus {done.returncode}\n"


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("format", ["text", "json"])
def test_jail_error_that_is_logged_leaves_the_worker_alive(
    log: str, name: str, format: str
) -> None:
    """The traceback is in the log, and so is what the worker says afterwards."""
    _, _, after = log.partition(f"{format}: {name}")
    shown, lives, _ = after.partition(f"{format}: lives after: {name}")

    assert lives, log[-2000:]
    assert KINDS[name][1] in shown


def test_jail_errors_have_no_lines_of_source_and_no_colours(log: str) -> None:
    """Files cannot be looked at inside, and a log is not a terminal."""
    before, _, inside = log.partition("text: several lines")

    assert "    call(\n" in before
    assert "call(" not in inside
    assert "\x1b[" not in log


def test_jail_of_errors_only_ends_as_any_process(log: str) -> None:
    """Nothing that was shown killed it."""
    assert log.endswith("\nstatus 0\n")
