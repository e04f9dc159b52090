# SPDX-License-Identifier: MIT
"""Workers and supervisors are killed on real Xen while their guest writes and verifies: a pause for
one disk, and nothing more."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import pytest

from tests.xen.bed.dom0 import Dom0, disk
from tests.xen.bed.guest import XVDA, XVDB, Guest, worst_ms

pytestmark = [pytest.mark.xen, pytest.mark.usefixtures("fio")]

KILLS: Final = 3
MANY: Final = 50
EACH: Final = 10
"""Workers killed for each supervisor."""
OF_DISKS: Final = re.compile(r"xvd|vbd|blk|i/o|blocked|xen|call trace", re.IGNORECASE)
# Each block is read back and checked soon after it was written, so before and after each kill.
WRITES: Final = (
    "--rw=randwrite --bs=4k --size=16m --iodepth=8 --verify_backlog=32 --time_based --runtime=900"
)


@pytest.fixture
def guest(dom0: Dom0) -> Iterator[Guest]:
    """A guest with two empty disks."""
    first, second = dom0.image("a.img"), dom0.image("b.img")
    guest = dom0.create("killed", [disk(first, "xvda"), disk(second, "xvdb")])
    yield guest
    dom0.destroy(guest)


def test_worker_killed_under_verified_io_guest_sees_a_pause(dom0: Dom0, guest: Guest) -> None:
    """Three times SIGKILL: no I/O error, no wrong block; the other disk's worker stays."""
    hurt, other = guest.device(XVDA), guest.device(XVDB)
    first = before = dom0.wait_connected(hurt, other)
    for device in ("xvda", "xvdb"):
        guest.start_fio(device, WRITES)
    for _ in range(KILLS):
        guest.wait_progress("xvda")
        dom0.run(f"kill -9 {before.workers[hurt]}")
        dom0.wait_successor(hurt, before)
        before = dom0.wait_connected(hurt, other)
    guest.wait_progress("xvda")
    worst = {device: worst_ms(guest.end_fio(device)) for device in ("xvda", "xvdb")}
    print(  # noqa: T201
        f"killed under load: longest request {worst['xvda']:.0f} ms, of the other disk"
        f" {worst['xvdb']:.0f} ms"
    )
    assert guest.io_errors() == 0
    assert before.workers[other] == first.workers[other]
    told = dom0.devices()
    assert (told[hurt]["restarts"], told[other]["restarts"]) == (KILLS, 0)


def test_worker_and_supervisor_killed_again_and_again_guest_sees_pauses(
    dom0: Dom0, guest: Guest
) -> None:
    """Fifty workers and five supervisors: no I/O error, no wrong block, no word of it in dmesg."""
    hurt, other = guest.device(XVDA), guest.device(XVDB)
    first = before = dom0.wait_connected(hurt, other)
    said = guest.run("dmesg").splitlines()
    for device in ("xvda", "xvdb"):
        guest.start_fio(device, WRITES)
    for number in range(1, MANY + 1):
        guest.wait_progress("xvda", 10)
        dom0.run(f"kill -9 {before.workers[hurt]}")
        dom0.wait_successor(hurt, before)
        if number % EACH == 0:
            guest.wait_progress("xvda", 10)
            dom0.run(f"kill -9 {dom0.pid}")
            for device in ("xvda", "xvdb"):
                guest.wait_progress(device, 10)
            dom0.serve_again()
        before = dom0.wait_connected(hurt, other)
    guest.wait_progress("xvda")
    worst = {device: worst_ms(guest.end_fio(device)) for device in ("xvda", "xvdb")}
    print(  # noqa: T201
        f"{MANY} workers and {MANY // EACH} supervisors killed under load: longest request"
        f" {worst['xvda']:.0f} ms, of the other disk {worst['xvdb']:.0f} ms"
    )
    news = guest.run("dmesg").splitlines()[len(said) :]
    print("dmesg meanwhile:", news or "nothing")  # noqa: T201
    assert not [line for line in news if OF_DISKS.search(line)]
    assert before.workers[other] == first.workers[other]
    assert set(dom0.devices()) == {hurt, other}
