# SPDX-License-Identifier: MIT
"""Real workers that are stuck in C or in Python, or eat all memory their cgroup has."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.waiting import wait_until
from tests.process.daemon_setup import PROGRAM, Setup, paths
from tests.root import ROOT

STUCK = PROGRAM.replace(
    'preload=("tests.fakes.trivial_worker",)',
    'preload=("worker.preload", "tests.fakes.stuck_worker")',
).replace("trivial_worker:run", "stuck_worker:run")

TIMEOUTS = "timeouts: {{beat: 0.1, beat_dead: {dead}, abort: 5}}\n"
"""So long after SIGABRT that the trace is no matter of luck."""

MEMORY = 300 << 20
"""Bytes: a supervisor, a fork server and a worker use a quarter of it."""

CGROUPS = Path("/sys/fs/cgroup")


class StuckSetup(Setup):
    """Its workers get stuck when told to."""

    def start(self, dead: float, before: str = ":") -> None:
        """One served device, vbd/3/1; a shell runs `before` and becomes the supervisor."""
        timeouts = TIMEOUTS.format(dead=dead)
        self.config.write_text(
            self.config.read_text().replace("timeouts: {drain: 5, hello: 5}\n", timeouts)
        )
        self.xenstored()
        self.plug(3, 1)
        shell = ["sh", "-c", f'{before} && exec "$0" "$@"']
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [*shell, sys.executable, "-c", STUCK, str(self.config)],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                start_new_session=True,
            )
        self.processes.append(process)
        self.wait_phase("vbd/3/1", "serving")

    def do(self, deed: str) -> None:
        """Have the worker do it; returns when a successor serves."""
        with self.store() as store:
            store.write(f"{paths(3, 1)[1]}/deed", deed.encode())
        self.wait_phase("vbd/3/1", "serving", generation=2)


@pytest.fixture
def setup() -> Iterator[StuckSetup]:
    """A supervisor that is not started yet."""
    made = StuckSetup()
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("deed", ["loop_in_c", "loop_in_python"])
def test_supervision_stuck_worker_says_where(setup: StuckSetup, deed: str) -> None:
    """No beat, SIGABRT, both stacks in the log, and another worker serves."""
    setup.start(3)
    setup.do(deed)
    log = setup.log.read_text()
    assert "no beat for 3 s" in log
    python, _, native = log.partition("Native trace")
    assert "Fatal Python error: Aborted" in python
    assert f"in {deed}" in python
    assert "(_Py" in native or "(Py" in native or "python" in native
    assert native.count("[0x") > 5
    status = setup.device("vbd/3/1")
    assert status is not None
    assert (status.failures, status.last_failure) == (1, "hang")


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup with a bound on memory, of version 1 or else 2; skips where none can be made."""
    v1 = CGROUPS / "memory"
    root, limit, swap = (
        (v1, "memory.limit_in_bytes", "memory.swappiness")
        if v1.is_dir()
        else (CGROUPS, "memory.max", "memory.swap.max")
    )
    directory = root / f"xbd-{os.getpid()}"
    try:
        directory.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made: {error}")
    try:
        try:
            (directory / limit).write_text(str(MEMORY))
        except OSError as error:
            pytest.skip(f"the cgroup does not bound memory: {error}")
        with contextlib.suppress(OSError):  # no swap, no such file
            (directory / swap).write_text("0")
        yield directory
    finally:
        procs = directory / "cgroup.procs"
        wait_until(lambda: not procs.read_text(), "the cgroup to be empty")
        directory.rmdir()


def test_supervision_worker_killed_for_want_of_memory_is_called_so(
    cgroup: Path, setup: StuckSetup
) -> None:
    """The kernel kills it; status says oom, the log says why, and another worker serves."""
    setup.start(60, f"echo $$ > {cgroup}/cgroup.procs")
    setup.do("eat_memory")
    status = setup.device("vbd/3/1")
    assert status is not None
    assert (status.failures, status.last_failure) == (1, "oom")
    assert "by the kernel, for want of memory" in setup.log.read_text()
