# SPDX-License-Identifier: MIT
"""Crash marks: a process that dies of itself says so in a file that outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.root import ROOT

CHILD = """
import mmap, os, sys
from worker import crash
from worker.native._process import ffi
file = os.open(sys.argv[1], os.O_RDWR)
page = mmap.mmap(file, 4096)
word = ffi.from_buffer("uint32_t[]", page)
marks = ffi.cast("uint32_t **", crash.watch())
assert crash.watch() == int(ffi.cast("uintptr_t", marks))
if sys.argv[3] == "marked":
    marks[0] = word + 1
os.kill(os.getpid(), int(sys.argv[2]))
"""


def word_after(directory: Path, number: signal.Signals, kind: str = "marked") -> int:
    """Let a child kill itself by the signal; what its file says afterwards."""
    path = directory / "mark"
    path.write_bytes(bytes(4096))
    words = [sys.executable, "-c", CHILD, str(path), str(int(number)), kind]
    status = subprocess.run(words, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode
    assert status == -number
    return int.from_bytes(path.read_bytes()[4:8], sys.byteorder)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGSYS])
def test_crash_by_a_signal_of_its_own_is_marked(tmp_path: Path, number: signal.Signals) -> None:
    """The word that was named is 1, and the process ends by the signal all the same."""
    assert word_after(tmp_path, number) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_crash_mark_of_a_process_that_is_killed_is_not_set(
    tmp_path: Path, number: signal.Signals
) -> None:
    """Others killed it: no crash."""
    assert word_after(tmp_path, number) == 0


def test_crash_without_a_word_marks_nothing(tmp_path: Path) -> None:
    """Nothing is attached at the moment: the signal ends the process, and no more happens."""
    assert word_after(tmp_path, signal.SIGSEGV, "unmarked") == 0
