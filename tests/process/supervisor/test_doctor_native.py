# SPDX-License-Identifier: MIT
"""What `doctor` says of native modules is what happens without them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from shared.device_types import own_types
from shared.native.table import table
from supervisor.cli.doctor_checks import NATIVE_MODULES
from supervisor.cli.doctor_types import BOTH, EMBEDDED, XEN
from tests.root import ROOT

WITHOUT = """
import sys
sys.modules[{module!r}] = None
import importlib
for name in {names!r}:
    importlib.import_module(name)
"""

EVERY_WORKER = ("supervisor.serve", "worker.preload")
NEEDED_BY = {
    EMBEDDED: (*EVERY_WORKER, "embedded.handles", "embedded.host"),
    XEN: (*EVERY_WORKER, "shared.hypervisor.xen"),
}
"""What is imported to serve on a hypervisor, besides a device type's backend."""


def can_import(module: str, names: tuple[str, ...]) -> bool:
    """Whether all these modules can be imported where one native module is not built."""
    program = WITHOUT.format(module=module, names=names)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 or "ImportError" in done.stderr or "NotFound" in done.stderr
    return done.returncode == 0


@pytest.mark.parametrize("module", sorted(table()))
def test_doctor_native_module_blocks_exactly_what_needs_it(module: str) -> None:
    """What is missing for serving, and only that, is called missing."""
    of_a_type = {name for type_ in own_types() for name in type_.native_modules}
    said = BOTH if module in of_a_type else NATIVE_MODULES.get(module, ())
    backends = tuple(
        type_.backend_module for type_ in own_types() if module in type_.native_modules
    )

    found = tuple(
        hypervisor
        for hypervisor in BOTH
        if not can_import(module, NEEDED_BY[hypervisor] + backends)
    )

    assert found == said
