# SPDX-License-Identifier: MIT
"""`make sanitize`: the native code under sanitizers.

- address and undefined behaviour: all cffi modules, and the tests that run them, in a copy of the
  tree below `build/sanitize`; what leaks counts if a frame of ours allocated it;
- thread: the block data plane between a real frontend and a disk (native/threads.c), in a program
  of its own, since CPython under the thread sanitizer says nothing of use.

Exit status: 0 nothing found, 1 something found, 77 the compiler lacks the sanitizers.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from shared.native.table import table
from tests.fuzz.native_build import can
from tests.root import ROOT
from tests.sanitize.build import (
    FLAGS,
    BuildError,
    build_modules,
    build_threads,
    copy_tree,
    sanitized_environment,
)

WORK: Final = ROOT / "build/sanitize"
SKIPPED: Final = 77
DEADLINE: Final = 200
"""Seconds after which the tests count as hanging; they take about one minute on two CPUs."""
UNIT: Final = (
    "tests/unit/devices/block/test_device.py",
    "tests/unit/devices/block/test_engine.py",
    "tests/unit/devices/block/test_grants.py",
    "tests/unit/devices/block/test_journal.py",
    "tests/unit/devices/block/test_journal_points.py",
    "tests/unit/devices/block/test_merge.py",
    "tests/unit/devices/block/test_requests.py",
    "tests/unit/devices/block/test_ring.py",
    "tests/unit/embedded/test_evtchn.py",
    "tests/unit/embedded/test_grants.py",
    "tests/unit/embedded/test_protocol.py",
    "tests/unit/devices/block/test_guest_load.py",
    "tests/unit/devices/block/test_guest_ring.py",
    "tests/unit/devices/block/test_guest_verify.py",
    "tests/unit/shared/hypervisor/test_xen.py",
    "tests/unit/shared/test_ring.py",
)
PROCESS: Final = (
    "tests/process/embedded/test_channels.py",
    "tests/process/embedded/test_grants.py",
    "tests/process/devices/block/test_worker.py",
)
"""Apart from the others, which leave threads: a fork beside one that allocates takes the lock of
the sanitizer's allocator along for ever."""
_OURS: Final = re.compile(r"^ +#[0-3] .*\b(?:shared|worker|embedded)/\S*\.(?:c|so)\b", re.M)
"""A frame of our modules among the first of a stack."""


def _library(name: str) -> str:
    """Path of a library as the compiler links it; "" if it has none."""
    shown = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True)
    path = Path(shown.stdout.strip())
    return str(path.resolve()) if path.is_absolute() else ""


def _environment(tree: Path) -> dict[str, str]:
    logs = tree.parent / "log"
    # libstdc++ with it: the sanitizer looks for its throw before libzmq brings it.
    preload = filter(None, (_library("libasan.so"), _library("libstdc++.so.6")))
    # Who is to crash crashes as ever, for its test to see; others end their test all the same.
    signals = "handle_segv=0:handle_sigbus=0:handle_abort=0"
    options = f"abort_on_error=1:{signals}:log_path={logs}:detect_leaks"
    return {
        **sanitized_environment(tree),
        "LD_PRELOAD": " ".join(preload),
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": f"{options}=1",
        "XENBACKD_CHILD_ASAN_OPTIONS": f"{options}=0",
        "LSAN_OPTIONS": "exitcode=0:report_objects=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def _our_leaks(logs: list[Path]) -> list[str]:
    """What our modules allocated and nobody holds; CPython and its modules leak by design."""
    found = []
    for path in logs:
        for block in path.read_text(errors="replace").split("\n\n"):
            if "leak of" in block and _OURS.search(block):
                found.append(block.strip())
    return found


def address() -> int:
    """The tests with sanitized modules; 0 or 1."""
    tree = WORK / "tree"
    copy_tree(tree)
    build_modules(tree)
    for old in WORK.glob("log.*"):
        old.unlink()
    words = [sys.executable, "-m", "pytest", "-q", "-p", "tests.sanitize.plugin"]
    status = 0
    for tests in (UNIT, PROCESS):
        try:
            status |= subprocess.run(
                [*words, "-p", "no:cacheprovider", *tests],
                cwd=tree,
                env=_environment(tree),
                timeout=DEADLINE,
            ).returncode
        except subprocess.TimeoutExpired:
            print(f"sanitize: tests do not end within {DEADLINE} s")  # noqa: T201
            return 1
    logs = sorted(WORK.glob("log.*"))
    errors = [
        path for path in logs if "ERROR: AddressSanitizer" in path.read_text(errors="replace")
    ]
    for path in errors:
        print(path.read_text(errors="replace")[:4000])  # noqa: T201
    leaks = _our_leaks(logs)
    for leak in leaks:
        print(leak)  # noqa: T201
    print(  # noqa: T201
        f"sanitize: address, undefined: {len(table())} modules, tests"
        f" {'FAILED' if status else 'passed'}, {len(errors)} errors, {len(leaks)} leaks"
    )
    return int(bool(status or errors or leaks))


def thread(seconds: float) -> int:
    """The driver; 0 or 1."""
    WORK.mkdir(parents=True, exist_ok=True)
    program = build_threads(WORK)
    status = subprocess.run(
        [program, str(seconds)], env={**os.environ, "TSAN_OPTIONS": "halt_on_error=0"}
    ).returncode
    print(f"sanitize: thread: {'no race' if not status else f'FAILED, status {status}'}")  # noqa: T201
    return int(bool(status))


def main() -> int:
    """What was asked for, or both."""
    parser = argparse.ArgumentParser(prog="make sanitize", description=__doc__)
    parser.add_argument("--only", choices=("address", "thread"))
    parser.add_argument("--seconds", type=float, default=20.0, help="of the thread sanitizer")
    arguments = parser.parse_args()
    status, skipped = 0, False
    try:
        if arguments.only != "thread":
            skipped = not can("gcc", *FLAGS)
            status |= 0 if skipped else address()
        if arguments.only != "address":
            missing = not can("gcc", "-fsanitize=thread")
            skipped |= missing
            status |= 0 if missing else thread(arguments.seconds)
    except BuildError as error:
        print(f"sanitize: does not build: {error}")  # noqa: T201
        return 1
    if skipped:
        print("sanitize: skipped: gcc has not all sanitizers here (Debian: apt-get install gcc)")  # noqa: T201
    return status or (SKIPPED if skipped else 0)


if __name__ == "__main__":
    sys.exit(main())
