# SPDX-License-Identifier: MIT
"""The fork server loads code of other distributions; what is wrong there stays with its type."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.root import ROOT

# As the fork server: `worker.preload` changes its process, so it has one of its own.
INSIDE = """
import sys
import msgspec
from shared import device_types
from shared.device_types import Argument, Call, DeviceType, Group
from worker import preload
from worker.jail.allowed import OWN_PROCESS

class Options(msgspec.Struct):
    def __post_init__(self):
        raise OSError("options look at the host")

TWIN = Group("as ours", (Call("tgkill", (Argument(0, (OWN_PROCESS,)),)),))
ECHO = "tests.fakes.echo.backend:Echo"
for type_ in (
    DeviceType(name="exits", backend="tests.fakes.type_that_exits:Type"),
    DeviceType(name="options", backend=ECHO, options=Options),
    DeviceType(name="calls", backend=ECHO, system_calls=(TWIN,)),
    DeviceType(name="words", backend=ECHO, system_calls=("brk",)),
):
    device_types.RESOLVED[type_.name] = type_
preload.load_types([f"{sys.argv[1]}=", "echo=tests.fakes.echo.about:TYPE"])
print("echo" in device_types.RESOLVED)
"""


@pytest.mark.parametrize("name", ["exits", "options", "calls", "words"])
def test_preload_type_that_cannot_be_loaded_leaves_the_others(name: str) -> None:
    """Its failure is logged, and the types after it are loaded all the same."""
    done = subprocess.run(
        [sys.executable, "-c", INSIDE, name], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
    assert f"preload: type {name}: " in done.stderr
