# SPDX-License-Identifier: MIT
"""One machine for the whole run; what went on in it is kept in the bed's directory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import pytest

from tests.xen.bed.dom0 import LOG, Dom0
from tests.xen.bed.image import Bed
from tests.xen.bed.machine import Machine
from tests.xen.bed.packages import Unavailable

LOGS: Final = {
    "xenbackd.log": f"cat {LOG}",
    "guests.log": "tail -v -n +1 /var/log/xen/*.log /var/log/xen/console/*",
    "xenstore.log": "xenstore-ls -f",
    "xl.log": "xl list; xl info; ps axo pid,stat,rss,time,args",
    "dmesg.log": "dmesg",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which clock the machine has."""
    parser.addoption(
        "--host-clock", action="store_true", help="the emulated machine has the host's clock"
    )


@pytest.fixture(scope="session")
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """The machine, with dom0 up."""
    bed = Bed()
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(bed.mine())
            bed.build()
        except Unavailable as why:
            pytest.skip(str(why))
        machine = Machine(bed, counted=not request.config.getoption("--host-clock", default=False))
        stack.callback(machine.stop)
        yield machine


@pytest.fixture(scope="session")
def dom0(machine: Machine) -> Iterator[Dom0]:
    """dom0 with xenbackd running and no guest."""
    dom0 = Dom0(machine)
    try:
        dom0.serve()
        start = f"dom0 up {machine.booted:.1f} s, xenbackd {dom0.serving:.1f} s"
        print(start)  # noqa: T201
        yield dom0
    finally:
        for name, command in LOGS.items():
            (machine.bed.logs / name).write_text(dom0.try_run(command)[1])


@pytest.fixture(scope="session")
def fio(machine: Machine) -> None:
    """For tests that need it in a guest: a bed without a compiler or sources has none."""
    if not machine.bed.fio.exists():
        pytest.skip("the bed has no fio")
