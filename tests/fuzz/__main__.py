# SPDX-License-Identifier: MIT
"""`make fuzz`: every target for its share of the time, as many at once as there are CPUs.

Exit status: 0 nothing found, 1 something found (the input is kept and its place is said), 77
nothing found, but the native targets could not be built here. New inputs go to `build/fuzz`;
`--merge` takes those into the tree's corpus that reach what no other input does.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from tests.fuzz.catalogue import (
    CORPUS,
    INPUT_MAX,
    INPUT_MAX_DEFAULT,
    NATIVE,
    PYTHON,
    TARGETS,
)
from tests.fuzz.native_build import BuildError, UnavailableError, build_fuzzers
from tests.fuzz.report import Figures, read_figures, table
from tests.root import ROOT

WORK: Final = ROOT / "build/fuzz"
SKIPPED: Final = 77
ATHERIS: Final = "atheris>=2.3"
GRACE: Final = 60
"""Seconds a fuzzer may take to load its corpus and to end."""
MERGE_MAX: Final = 600
"""Seconds for choosing among the inputs of one target."""


@dataclass(frozen=True)
class Fuzzer:
    """One target and what runs it."""

    target: str
    engine: str
    words: tuple[str, ...]

    @property
    def found(self) -> Path:
        """Where its new inputs go."""
        return WORK / "corpus" / self.target

    def fuzz(self, seconds: float, seed: int) -> Figures:
        """Run it for so long."""
        self.found.mkdir(parents=True, exist_ok=True)
        (CORPUS / self.target).mkdir(parents=True, exist_ok=True)
        arguments = [
            f"-max_total_time={max(1, round(seconds))}",
            f"-max_len={INPUT_MAX.get(self.target, INPUT_MAX_DEFAULT)}",
            f"-artifact_prefix={WORK}/{self.target}-",
            "-print_final_stats=1",
            "-timeout=20",
            "-rss_limit_mb=1024",
            *([f"-seed={seed}"] if seed else []),
            str(self.found),
            str(CORPUS / self.target),
        ]
        status, output = _run([*self.words, *arguments], seconds + GRACE)
        (WORK / f"{self.target}.log").write_text(output)
        return read_figures(self.target, self.engine, status, output)

    def merge(self) -> None:
        """Keep in the tree the fewest inputs that reach all that old and new ones reach."""
        fresh = WORK / "merged" / self.target
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        kept = CORPUS / self.target
        folders = [str(fresh), str(kept), str(self.found)]
        if self.target in PYTHON:
            words = [sys.executable, "-m", "tests.fuzz.minimise", self.target]
        else:
            longest = f"-max_len={INPUT_MAX_DEFAULT}"
            words = [*self.words, "-set_cover_merge=1", longest]
        status, output = _run([*words, *folders], MERGE_MAX)
        if status:
            sys.exit(f"fuzz: merge: {self.target}: {output[-2000:]}")
        for path in kept.iterdir():
            if not path.name.startswith(("bug-", "seed-")):  # found something once; by hand
                path.unlink()
        for path in fresh.iterdir():
            path.rename(kept / hashlib.sha256(path.read_bytes()).hexdigest()[:12])


def _run(words: Sequence[str], timeout: float) -> tuple[int, str]:
    try:
        result = subprocess.run(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT, timeout=timeout
        )
    except subprocess.TimeoutExpired as late:
        return 70, (late.stdout or b"").decode(errors="replace") + "\nError: does not end\n"
    return result.returncode, result.stdout.decode(errors="replace")


def _native(wanted: Sequence[str]) -> tuple[list[Fuzzer], str]:
    """The native fuzzers, and why there are none."""
    names = [name for name in NATIVE if name in wanted]
    if not names:
        return [], ""
    try:
        programs = build_fuzzers(WORK)
    except UnavailableError as why:
        return [], str(why)
    return [Fuzzer(name, "libFuzzer", (str(programs[name]),)) for name in names], ""


def _python(wanted: Sequence[str]) -> list[Fuzzer]:
    """The fuzzers of Python code: with atheris where it can be installed from a wheel."""
    names = [name for name in PYTHON if name in wanted]
    if names and find_spec("atheris") is None:
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
        status, _ = _run([*install, "--disable-pip-version-check", ATHERIS], 300)
        if status:
            print("fuzz: atheris has no wheel here; hypothesis makes the inputs")  # noqa: T201
    with_atheris = _run([sys.executable, "-c", "import atheris"], GRACE)[0] == 0
    engine = "atheris" if with_atheris else "hypothesis"
    drive = (sys.executable, "-m", "tests.fuzz.drive")
    return [Fuzzer(name, engine, (*drive, name)) for name in names]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="in total, building not counted"
    )
    parser.add_argument("--target", action="append", choices=TARGETS, help="only this one")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    parser.add_argument("--merge", action="store_true", help="take new inputs into the tree")
    return parser.parse_args()


def main() -> int:
    """Build, fuzz, tell."""
    arguments = _arguments()
    wanted = arguments.target or TARGETS
    WORK.mkdir(parents=True, exist_ok=True)
    try:
        native, missing = _native(wanted)
    except BuildError as error:
        print(f"fuzz: the native targets do not build:\n{error}")  # noqa: T201
        return 1
    fuzzers = [*native, *_python(wanted)]
    rounds = -(-len(fuzzers) // arguments.jobs)
    share = arguments.seconds / max(rounds, 1)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        figures = list(pool.map(lambda one: one.fuzz(share, arguments.seed), fuzzers))
    if figures:
        print(table(figures))  # noqa: T201
    for one in figures:
        if one.finding:
            place = WORK / f"{one.target}.log"
            print(f"fuzz: {one.target}: {one.finding} (see {place}, input beside it)")  # noqa: T201
    if missing:
        print(f"fuzz: native targets skipped: {missing}")  # noqa: T201
    if any(one.finding for one in figures):
        return 1
    if arguments.merge:
        for fuzzer in fuzzers:
            fuzzer.merge()
    return SKIPPED if missing else 0


if __name__ == "__main__":
    sys.exit(main())
