# SPDX-License-Identifier: MIT
"""Builds the native targets from the backend's own sources: with clang for libFuzzer, with gcc to
run inputs once.

Address and undefined-behaviour sanitizers are in both where the compiler has them. Nothing is left
beside the sources; what is built goes into the directory that is given.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from shared.native.table import table
from tests.fuzz.catalogue import HERE, NATIVE
from tests.root import ROOT

_HARNESS: Final = (
    "world",
    "world_deeds",
    "world_hypervisor",
    "world_disk",
    "world_check",
    "oracle",
)
_UNSEEN: Final = frozenset({"world_check", "oracle"})
"""What only checks: its branches say nothing about the backend and must not lead a fuzzer."""
_COVERAGE: Final = "-fsanitize=fuzzer-no-link"
_REPLACED: Final = "/plane/pool.c"
"""The threads are a list in tests/fakes/block/native/blk_inject.c, so that an input is one case."""
_FLAGS: Final = (
    "-g",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-DBLK_INJECT=1",
    f"-I{ROOT}",
    f"-I{ROOT}/worker/devices/block/native",
    f"-I{ROOT}/tests/fakes/block/native",
    f"-I{HERE}/native",
)
_SANITIZE: Final = ("-fno-omit-frame-pointer", "-fno-sanitize-recover=undefined")


class UnavailableError(Exception):
    """This machine has not what it takes; the text says what."""


class BuildError(Exception):
    """A compiler refused our sources; the text is what it said."""


def _sources() -> list[Path]:
    own = [HERE / "native" / f"{name}.c" for name in _HARNESS]
    targets = [HERE / "native" / f"target_{name}.c" for name in NATIVE]
    sources = table()["worker.devices.block.native._block"].sources
    backend = [ROOT / source for source in sources if not source.endswith(_REPLACED)]
    return [*own, *targets, *backend, ROOT / "tests/fakes/block/native/blk_inject.c"]


def _run(words: Sequence[str | Path]) -> None:
    result = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    if result.returncode:
        raise BuildError(result.stderr)


def can(compiler: str, *flags: str) -> bool:
    """Whether a program with these flags can be built and linked."""
    if shutil.which(compiler) is None:
        return False
    words = [compiler, "-x", "c", "-", "-o", "/dev/null", *flags]
    program = b"int main(void) { return 0; }"
    if "-fsanitize=fuzzer" in flags:
        program = b"int LLVMFuzzerTestOneInput(const char *d, unsigned long n);\n"
        program += b"int LLVMFuzzerTestOneInput(const char *d, unsigned long n)"
        program += b"{ return d && n > ~0ul; }"
    return subprocess.run(words, input=program, capture_output=True).returncode == 0


def _objects(compiler: str, flags: Sequence[str], directory: Path) -> list[Path]:
    directory.mkdir(parents=True, exist_ok=True)

    def build(source: Path) -> Path:
        made = directory / f"{source.stem}.o"
        own = [flag for flag in flags if flag != _COVERAGE or source.stem not in _UNSEEN]
        _run([compiler, *_FLAGS, *own, "-c", source, "-o", made])
        return made

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(build, _sources()))


def build_fuzzers(directory: Path) -> dict[str, Path]:
    """A libFuzzer program for each native target.

    Raises:
        UnavailableError: no clang with libFuzzer and the sanitizers.
        BuildError: our sources do not build.
    """
    compiler = os.environ.get("CLANG", "clang")
    checks = ("-fsanitize=address,undefined", *_SANITIZE)
    if not can(compiler, "-fsanitize=fuzzer", *checks):
        raise UnavailableError(
            f"no {compiler} with libFuzzer (Debian: apt-get install --no-install-recommends clang"
            " libclang-rt-dev or libclang-rt-14-dev)"
        )
    flags = ["-O1", _COVERAGE, *checks]
    objects = _objects(compiler, flags, directory / "objects")
    programs = {}
    for target in NATIVE:
        programs[target] = directory / f"fuzz_{target}"
        entry: list[str | Path] = [f"-DTARGET=fuzz_{target}", HERE / "native/entry.c", *objects]
        link = ["-O1", "-fsanitize=fuzzer", *checks, *entry, "-o", programs[target]]
        _run([compiler, *_FLAGS, *link])
    return programs


def build_replay(directory: Path, compiler: str = "gcc") -> Path:
    """One program that runs inputs of all native targets; raises BuildError."""
    flags = ["-O0", "-Wno-clobbered"]  # built in each run of the tests, to run for an instant
    checks = ["-fsanitize=address,undefined", *_SANITIZE]
    if can(compiler, *checks):
        flags += checks
    objects = _objects(compiler, flags, directory / "replay")
    program = directory / "replay-inputs"
    _run([compiler, *_FLAGS, *flags, HERE / "native/replay.c", *objects, "-o", program])
    return program
