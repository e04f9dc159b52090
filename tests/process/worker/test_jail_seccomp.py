# SPDX-License-Identifier: MIT
"""Real processes under a worker's filter: what is allowed works, all else kills. Needs no root."""

from __future__ import annotations

import errno
import json
import platform
import signal
import subprocess
import sys

import pytest

from shared.device_types import own_types
from tests.fakes import filtered
from tests.root import ROOT
from worker.jail import seccomp

pytestmark = [
    pytest.mark.skipif(not seccomp.available().kills, reason="this kernel cannot do it"),
    pytest.mark.skipif(
        platform.machine() not in ("x86_64", "aarch64"), reason="no list for this machine"
    ),
]

Outcomes = dict[str, int]


@pytest.fixture(scope="module", params=[one.name for one in own_types()])
def outcomes(request: pytest.FixtureRequest) -> Outcomes:
    """How each case ended with a worker of each type; all of a type are run by one process."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.fakes.filtered", request.param],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    results: Outcomes = json.loads(run.stdout)
    return results


@pytest.mark.parametrize("name", filtered.ALLOWED)
def test_filter_allowed_call_works(outcomes: Outcomes, name: str) -> None:
    """What a worker needs goes on working, or fails with the errno that its caller expects."""
    assert outcomes[name] == filtered.ALLOWED[name][1]


@pytest.mark.parametrize("name", filtered.FORBIDDEN)
def test_filter_forbidden_call_kills(outcomes: Outcomes, name: str) -> None:
    """The process ends by SIGSYS, although it has a handler for that."""
    if filtered.FORBIDDEN[name] is None:
        pytest.skip("this machine does not have it")

    assert outcomes[name] == -signal.SIGSYS


def test_filter_thread_that_was_there_before_is_under_it(outcomes: Outcomes) -> None:
    """A forbidden call of any thread ends the whole process."""
    assert outcomes["older thread"] == -signal.SIGSYS


def test_install_thread_under_another_filter_is_named(outcomes: Outcomes) -> None:
    """The error says which thread could not be brought under it."""
    assert outcomes["other filter"] == 0


def test_filter_abort_ends_by_its_own_signal(outcomes: Outcomes) -> None:
    """faulthandler writes its trace and raises the signal again."""
    assert outcomes["abort"] == -signal.SIGABRT


def test_filter_mode_log_lets_happen(outcomes: Outcomes) -> None:
    """The call is made, and fails for its bad pointer only."""
    assert outcomes["log: openat"] == errno.EFAULT


def test_seal_denies_grants_under_a_workers_filter(outcomes: Outcomes) -> None:
    """A second filter goes on top of the first and answers with EPERM."""
    assert outcomes["sealed"] == errno.EPERM


def test_filter_i386_entry_kills(outcomes: Outcomes) -> None:
    """The other table of numbers that an x86_64 kernel has is closed."""
    if outcomes.get("i386 entry without a filter", -1) != 0:
        pytest.skip("this kernel or machine has no such entry")

    assert outcomes["i386 entry"] == -signal.SIGSYS
