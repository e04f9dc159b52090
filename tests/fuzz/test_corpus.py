# SPDX-License-Identifier: MIT
"""Every input that is kept, once more through what it was kept for: no fuzzer, no clang."""

from __future__ import annotations

import importlib
import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.catalogue import NATIVE, PYTHON, corpus_files
from tests.fuzz.native_build import build_replay

DEADLINE = 120.0
"""Seconds after which an input counts as one that does not end; all of them take a moment."""


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The native targets in one program, with sanitizers where gcc has them."""
    return build_replay(tmp_path_factory.mktemp("replay"))


@pytest.fixture
def _quiet() -> Iterator[None]:
    """What is logged about thousands of bad inputs is not to be kept."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("target", NATIVE)
def test_fuzz_native_corpus_breaks_no_promise(target: str, replay: Path) -> None:
    """The backend in C holds what tests/fuzz/native/world.h says, for each kept input."""
    files = corpus_files(target)
    assert files

    result = subprocess.run(
        [replay, target, *files], capture_output=True, text=True, timeout=DEADLINE
    )

    assert result.returncode == 0, result.stderr[-2000:]
    assert len(result.stderr.splitlines()) == len(files)


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize("target", sorted(PYTHON))
def test_fuzz_python_corpus_breaks_no_promise(target: str) -> None:
    """What the supervisor and the device type read, for each kept input."""
    check = importlib.import_module(f"tests.fuzz.targets.{target}").check
    files = corpus_files(target)
    assert files

    for path in files:
        try:
            check(path.read_bytes())
        except Exception as error:
            error.add_note(str(path))
            raise
