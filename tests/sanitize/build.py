# SPDX-License-Identifier: MIT
"""A copy of the tree with sanitized native modules, so that the checkout's own stay as they are."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = ("supervisor", "worker", "shared", "config", "tests", "scripts")
FILES: Final = ("pyproject.toml", "setup.py", "README.md", "Makefile")
MODULES: Final = tuple(re.findall(r'"(\S+\.py):ffi"', (ROOT / "setup.py").read_text()))
"""Their build scripts, as setup.py has them."""
FLAGS: Final = (
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
    "-fno-omit-frame-pointer",
    "-g",
)


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

    def build(script: str) -> None:
        run([sys.executable, script], tree, sanitized_environment(tree))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(build, MODULES))


def run(words: Sequence[str | Path], tree: Path, environment: dict[str, str]) -> None:
    """Run a compiler; raises BuildError."""
    result = subprocess.run(words, cwd=tree, env=environment, capture_output=True, text=True)
    if result.returncode:
        raise BuildError(f"{' '.join(map(str, words))}\n{result.stdout}{result.stderr}")


def build_threads(directory: Path) -> Path:
    """The driver of tests/sanitize/native under the thread sanitizer; raises BuildError."""
    front = ROOT / "shared/embedded/guest/native"
    sources: list[Path] = [
        ROOT / "tests/sanitize/native/threads.c",
        *sorted((ROOT / "worker/native").glob("blk_*.c")),
        *sorted(path for path in front.glob("*.c") if path.stem[0] not in "_"),
    ]
    includes = [f"-I{ROOT / name}" for name in ("worker/native", "shared/native", "")]
    program = directory / "threads"
    # A fence orders no plain access for the sanitizer; all that stand beside one are atomic.
    flags = ["-fsanitize=thread", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-tsan"]
    words: list[str | Path] = [
        "gcc",
        *flags,
        "-pthread",
        "-D_GNU_SOURCE=",
        *includes,
        f"-I{front}",
        *sources,
    ]
    run([*words, "-o", program], ROOT, dict(os.environ))
    return program
