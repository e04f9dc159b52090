# SPDX-License-Identifier: MIT
"""A copy of the tree with sanitized native modules, so that the checkout's own stay as they are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from shared.native.table import table
from tests.root import ROOT

PACKAGES: Final = ("supervisor", "worker", "shared", "embedded", "config", "tests", "scripts")
FILES: Final = ("pyproject.toml", "setup.py", "README.md", "Makefile")
FLAGS: Final = (
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
    "-fno-omit-frame-pointer",
    "-g",
)


THREADED: Final = (
    "worker.devices.block.native._block",
    "worker.devices.block.guest.native._front",
)
"""What the driver of tests/sanitize/native runs."""


class BuildError(Exception):
    """A compiler refused our sources; the text is what it said."""


def copy_tree(to: Path) -> None:
    """The sources and tests of this checkout, without what was built of them."""
    shutil.rmtree(to, ignore_errors=True)
    built = shutil.ignore_patterns("*.so", "*.o", "_*.c", "__pycache__", "corpus")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, to / package, ignore=built)
    for name in FILES:
        shutil.copy2(ROOT / name, to / name)


def sanitized_environment(tree: Path) -> dict[str, str]:
    """Environment in which cffi builds sanitized modules, for the tests that build some too."""
    flags = " ".join(FLAGS)
    return {**os.environ, "PYTHONPATH": str(tree), "CFLAGS": flags, "LDFLAGS": flags}


def build_modules(tree: Path) -> None:
    """All cffi modules, in place; raises BuildError."""

    def build(name: str) -> None:
        words = [sys.executable, "-m", "shared.native.build", name]
        run(words, tree, sanitized_environment(tree))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(build, table()))


def run(words: Sequence[str | Path], tree: Path, environment: dict[str, str]) -> None:
    """Run a compiler; raises BuildError."""
    result = subprocess.run(words, cwd=tree, env=environment, capture_output=True, text=True)
    if result.returncode:
        raise BuildError(f"{' '.join(map(str, words))}\n{result.stdout}{result.stderr}")


def build_threads(directory: Path) -> Path:
    """The driver of tests/sanitize/native under the thread sanitizer; raises BuildError."""
    sources: list[Path] = [
        ROOT / "tests/sanitize/native/threads.c",
        *(ROOT / source for name in THREADED for source in table()[name].sources),
    ]
    includes = [f"-I{ROOT / folder}" for name in THREADED for folder in ("", table()[name].folder)]
    program = directory / "threads"
    # A fence orders no plain access for the sanitizer; all that stand beside one are atomic.
    flags = ["-fsanitize=thread", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-tsan"]
    words: list[str | Path] = [
        "gcc",
        *flags,
        "-pthread",
        "-D_GNU_SOURCE=",
        *includes,
        *sources,
    ]
    run([*words, "-o", program], ROOT, dict(os.environ))
    return program
