# SPDX-License-Identifier: MIT
"""Thirty-two disks of four guests at once on real Xen, and what they cost dom0."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from tests.xen.bed.dom0 import Dom0
from tests.xen.bed.dom0 import disk as line_of
from tests.xen.bed.guest import Guest
from tests.xen.bed.machine import PATIENCE

pytestmark = pytest.mark.xen

GUESTS: Final = 4
DISKS: Final = 8
FIRST: Final = "abcdefgh"
IDLE: Final = 20
"""Seconds over which the cost of doing nothing is taken."""
LONG: Final = 10 * PATIENCE

# KiB: proportional set size of all workers, then of the supervisor; available memory of dom0.
MEMORY: Final = """\
for p in $(pgrep -f '^xenbackd: vbd/'); do cat /proc/$p/smaps_rollup; done |
    awk '/^Pss:/ {s += $2} END {print s}'
awk '/^Pss:/ {print $2}' /proc/$(pgrep -f '[x]enbackd serve' | head -n 1)/smaps_rollup
awk '/^MemAvailable:/ {print $2}' /proc/meminfo
"""
# Ticks (1/100 s) used by all workers, then by the supervisor.
CPU: Final = """\
for p in $(pgrep -f '^xenbackd: vbd/'); do cat /proc/$p/stat; done |
    sed 's/.*) //' | awk '{s += $12 + $13} END {print s}'
sed 's/.*) //' /proc/$(pgrep -f '[x]enbackd serve' | head -n 1)/stat | awk '{print $12 + $13}'
"""


def image(guest: int, disk: int) -> str:
    """Its path in dom0."""
    return f"/srv/m{guest}{FIRST[disk]}.img"


def line(guest: int, disk: int) -> str:
    """As xl wants it."""
    return line_of(image(guest, disk), f"xvd{FIRST[disk]}")


@pytest.fixture(scope="module")
def guests(dom0: Dom0) -> Iterator[list[Guest]]:
    """Four guests with a disk each, then seven more by `xl block-attach`."""
    found: list[Guest] = []
    try:
        for number in range(GUESTS):
            for disk in range(DISKS):
                path = image(number, disk)
                dom0.run(
                    f"truncate -s 8M {path} && echo {path} > /tmp/m && "
                    f"dd if=/tmp/m of={path} conv=notrunc status=none"
                )
            found.append(dom0.create(f"m{number}", [line(number, 0)], memory=128))
        attach = "; ".join(
            f"xl block-attach {guest.name} '{line(number, disk)}' || exit 1"
            for number, guest in enumerate(found)
            for disk in range(1, DISKS)
        )
        dom0.run(attach, LONG)
        yield found
    finally:
        for guest in found:
            dom0.destroy(guest)


def figures(dom0: Dom0, command: str) -> list[int]:
    """Numbers, one a line."""
    return [int(x) for x in dom0.run(command).split()]


def test_thirty_two_disks_each_guest_reads_its_own(dom0: Dom0, guests: list[Guest]) -> None:
    """Every disk has the content of its own image, in the guest and with a worker of its own."""
    for number, guest in enumerate(guests):
        told = guest.run(
            f"for d in {' '.join(FIRST)}; do until [ -b /dev/xvd$d ]; do sleep 0.2; done;"
            " head -n 1 /dev/xvd$d; done",
            LONG,
        )
        assert told.split() == [image(number, disk) for disk in range(DISKS)]
    devices = dom0.devices()
    assert len(devices) == GUESTS * DISKS
    assert {x["backend"] for x in devices.values()} == {"Connected"}
    assert len({x["pid"] for x in devices.values()}) == GUESTS * DISKS


@pytest.mark.usefixtures("guests")
def test_thirty_two_disks_cost_is_recorded(dom0: Dom0) -> None:
    """Memory of dom0 for each disk, and CPU while nothing is done; printed for the documents."""
    workers, supervisor, available = figures(dom0, MEMORY)
    before = figures(dom0, CPU)
    start = dom0.machine.asked
    dom0.run(f"sleep {IDLE}")
    spent = dom0.machine.asked - start
    idle = [b - a for a, b in zip(before, figures(dom0, CPU), strict=True)]
    count = GUESTS * DISKS
    print(  # noqa: T201
        f"{count} disks: {workers / count / 1024:.2f} MiB a worker,"
        f" {supervisor / 1024:.1f} MiB supervisor, {available / 1024:.0f} MiB left in dom0;"
        f" idle over {spent:.0f} s: {idle[0] / spent / count:.2f} % of a core a worker,"
        f" {idle[1] / spent:.1f} % supervisor"
    )
    assert workers / count < 16 * 1024, "KiB of a worker"
    assert [x["backend"] for x in dom0.devices().values()] == ["Connected"] * count
