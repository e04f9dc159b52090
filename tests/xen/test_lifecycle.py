# SPDX-License-Identifier: MIT
"""What xl does to a whole guest on real Xen: its disks go along, and nothing of it stays behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from tests.fakes.waiting import wait_until
from tests.xen.bed.dom0 import Dom0, disk
from tests.xen.bed.guest import XVDA, XVDB, Guest
from tests.xen.bed.machine import PATIENCE

pytestmark = pytest.mark.xen

ENDLESS: Final = (
    "--rw=randwrite --bs=4k --size=4m --iodepth=8 --verify_backlog=32 --time_based --runtime=900"
)
PATTERN: Final = "dd if=/dev/urandom of=/dev/xvda bs=64k count=32 oflag=direct"
FORGET_NUMBERS: Final = "rm -f /run/xen/domid-history"
"""libxl keeps a number from being used again for 60 s otherwise (and for the rest of the second
with LIBXL_DOMID_REUSE_TIMEOUT=0)."""


def made(dom0: Dom0) -> Guest:
    """A running guest with two disks, connected."""
    first, second = dom0.image("a.img", "8M"), dom0.image("b.img", "8M")
    guest = dom0.create("life", [disk(first, "xvda"), disk(second, "xvdb")])
    connected(dom0, guest)
    return guest


def connected(dom0: Dom0, guest: Guest) -> None:
    """Both disks, and no other, are served."""
    dom0.wait_connected(guest.device(XVDA), guest.device(XVDB))


@pytest.fixture
def guest(dom0: Dom0) -> Guest:
    """The guest, which one test may leave to the next."""
    guest = Guest(dom0.machine, "life")
    if not guest.domid:
        guest = made(dom0)
    return guest


@pytest.fixture(scope="module", autouse=True)
def _end(dom0: Dom0) -> Iterator[None]:
    yield
    dom0.destroy(Guest(dom0.machine, "life"))


@pytest.mark.usefixtures("fio")
def test_pause_unpause_disks_go_on(dom0: Dom0, guest: Guest) -> None:
    """A paused guest's disks wait with it, served by the same workers."""
    before = dom0.look().workers
    guest.start_fio("xvda", ENDLESS)
    guest.wait_progress("xvda")
    dom0.run(f"xl pause {guest.name} && xl unpause {guest.name}")
    guest.wait_progress("xvda")
    guest.end_fio("xvda")
    connected(dom0, guest)
    assert dom0.look().workers == before


def test_frontend_that_starts_anew_connects_again(dom0: Dom0, guest: Guest) -> None:
    """In the same directories the frontend goes from Connected over Closed to Initialising, as
    after a kexec: the backend follows, and the disk is as it was."""
    name, domid = guest.device(XVDB), guest.domid
    descriptors = dom0.descriptors()
    guest.run("dd if=/dev/urandom of=/dev/xvdb bs=64k count=32 oflag=direct")
    guest.run(f"echo vbd-{XVDB} > /sys/bus/xen/drivers/vbd/unbind")
    dom0.wait(lambda seen: seen.disks[name] == ("6", "6"), f"{name} closed")
    # Linux does not reset the state of a device it has let go, it takes up a new one that is at 1;
    # and its driver closes a device whose backend is still Closed, so it has to come last.
    guest.run("echo 0 > /sys/bus/xen/drivers_autoprobe")
    front = f"/local/domain/{domid}/device/vbd/{XVDB}"
    back = dom0.run(f"xenstore-read {front}/backend; xenstore-rm {front}").strip()
    guest.until(f"[ ! -e /sys/bus/xen/devices/vbd-{XVDB} ]", "the device to go")
    nodes = {"backend": back, "backend-id": 0, "virtual-device": XVDB, "device-type": "disk"}
    written = " ".join(f"{front}/{node} {value}" for node, value in nodes.items())
    dom0.run(f"xenstore-write {front} '' && xenstore-chmod {front} n{domid} r0")
    dom0.run(f"xenstore-write {written} && xenstore-write {front}/state 1")
    dom0.wait(lambda seen: seen.disks[name] == ("2", "1"), f"{name} to wait for its frontend")
    guest.until(f"[ -e /sys/bus/xen/devices/vbd-{XVDB} ]", "the device")
    guest.run(f"echo vbd-{XVDB} > /sys/bus/xen/drivers/vbd/bind")
    guest.run("echo 1 > /sys/bus/xen/drivers_autoprobe")
    connected(dom0, guest)
    guest.until("[ -b /dev/xvdb ]", "xvdb")
    assert guest.hash("/dev/xvdb") == dom0.hash("/srv/b.img")
    assert dom0.descriptors() == descriptors


def test_reboot_takes_the_disks_along(dom0: Dom0, guest: Guest) -> None:
    """`xl reboot`: a new domain with the same disks, nothing of the old one."""
    before = guest.domid
    guest.run(PATTERN)
    content = dom0.hash("/srv/a.img")
    dom0.run(f"xl reboot {guest.name}")
    patience = PATIENCE * dom0.machine.slowness
    wait_until(lambda: guest.domid not in (0, before), "the new domain", patience)
    guest.wait()
    connected(dom0, guest)
    assert guest.hash("/dev/xvda") == content
    assert not dom0.look(below=f"/local/domain/{before}").nodes


def test_save_restore_takes_the_disks_along(dom0: Dom0, guest: Guest) -> None:
    """`xl save` lets the disks go, `xl restore` connects them again in a new domain."""
    before = guest.domid
    guest.run(f"echo kept > /tmp/kept; {PATTERN}")
    dom0.run(f"xl save {guest.name} /srv/saved")
    dom0.nothing_left(before)
    dom0.run("xl restore /srv/saved && rm /srv/saved")
    guest.wait()
    assert guest.domid != before
    connected(dom0, guest)
    assert guest.run("cat /tmp/kept").strip() == "kept"
    assert guest.hash("/dev/xvda") == dom0.hash("/srv/a.img")


def test_domid_used_again_at_once_disks_are_new(dom0: Dom0, guest: Guest) -> None:
    """A domain that has the number of one that has just gone is not taken for it."""
    before, workers = guest.domid, dom0.look().workers
    guest.run(PATTERN)
    dom0.run(f"xl save -D {guest.name} /srv/saved && {FORGET_NUMBERS}")
    dom0.run("xl restore /srv/saved && rm /srv/saved")
    guest.wait()
    assert guest.domid == before
    connected(dom0, guest)
    assert guest.hash("/dev/xvda") == dom0.hash("/srv/a.img")
    assert set(dom0.look().workers.values()).isdisjoint(workers.values())


def test_shutdown_leaves_nothing(dom0: Dom0, guest: Guest) -> None:
    """`xl shutdown`: the guest ends by itself and nothing of it is left."""
    domid = guest.domid
    dom0.run(f"xl shutdown -w {guest.name}")
    dom0.nothing_left(domid)


@pytest.mark.usefixtures("fio")
def test_destroy_under_load_leaves_nothing(dom0: Dom0, guest: Guest) -> None:
    """`xl destroy` in the middle of writes: nothing of the guest is left, not even a page."""
    domid = guest.domid
    for device in ("xvda", "xvdb"):
        guest.start_fio(device, ENDLESS)
    for device in ("xvda", "xvdb"):
        guest.wait_progress(device)
    dom0.run(f"xl destroy {guest.name}")
    dom0.nothing_left(domid)
