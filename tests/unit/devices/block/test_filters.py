# SPDX-License-Identifier: MIT
"""The filter of a disk's worker: what any worker may do, and what its manifest asks for."""

from __future__ import annotations

import pytest

from tests.fakes.bpf_interpreter import check
from tests.unit.worker.jail.test_filters import BOTH, HIGH, PID, VERDICTS, verdict
from worker.jail import filters
from worker.jail.rules import ALLOW, KILL_PROCESS, Machine

# Name, arguments, verdict, on Xen.
OWN = [
    ("ioctl", (3, 0x1277), ALLOW),
    ("ioctl", (3, 0x80081272), ALLOW),
    ("ioctl", (3, 0xFFFFFFFF_80081272), ALLOW),
    ("fallocate", (3, 3), ALLOW),
    ("fallocate", (3, 0, 0, 65728), ALLOW),
    ("fallocate", (3, 0, 0, 0x20000), KILL_PROCESS),
    ("fallocate", (3, 0, 4096, 4096), KILL_PROCESS),
    ("fallocate", (3, 16), KILL_PROCESS),
    ("ftruncate", (3, 65728), ALLOW),
    ("ftruncate", (3, 0x20000), KILL_PROCESS),
    ("ftruncate", (3, HIGH), KILL_PROCESS),
    ("seccomp", (1, 1), ALLOW),
    ("seccomp", (1, 8), KILL_PROCESS),
    ("seccomp", (0, 0), KILL_PROCESS),
]


@BOTH
@pytest.mark.parametrize(("name", "arguments", "expected"), [*VERDICTS, *OWN])
def test_filter_for_block_on_xen_decides_each_call(
    machine: Machine, name: str, arguments: tuple[int, ...], expected: int
) -> None:
    """Numbers, arguments and both halves of arguments."""
    program = check(filters.filter_for("block", "xen", "enforce", pid=PID, machine=machine))

    assert verdict(program, machine, name, arguments) == expected
