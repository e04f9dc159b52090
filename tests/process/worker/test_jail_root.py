# SPDX-License-Identifier: MIT
"""The jail's empty root where the old one cannot be pivoted away, as in an initramfs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.root import ROOT

INITRAMFS = """
import errno, sys
from worker.jail import __main__, kernel
def refuse(new, old):  # as pivot_root(2) does for the root of an initramfs, which has no parent
    raise OSError(errno.EINVAL, "Invalid argument")
kernel.pivot_root = refuse
sys.argv = ["jail", "--json"]
sys.exit(__main__.main())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_jail_root_that_cannot_be_pivoted_is_covered() -> None:
    """Every other call is real: what is needed for it is not given up at birth."""
    done = subprocess.run(
        [sys.executable, "-c", INITRAMFS], cwd=ROOT, capture_output=True, text=True, check=False
    )
    outcomes = {one["step"]: one for one in json.loads(done.stdout)}
    if outcomes["root"]["outcome"] == "left out":
        pytest.skip(f"no mounts here: {outcomes['root']['reason']}")
    assert [one for one in outcomes.values() if one["outcome"] == "failed"] == []
    assert done.returncode == 0, done.stderr
