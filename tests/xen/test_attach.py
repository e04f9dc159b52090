# SPDX-License-Identifier: MIT
"""Disks that come to and go from a running guest on real Xen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from tests.xen.bed.dom0 import Dom0, disk
from tests.xen.bed.guest import XVDA, XVDC, Guest

pytestmark = pytest.mark.xen

ENDLESS: Final = "--rw=randwrite --bs=4k --size=1m --iodepth=8 --time_based --runtime=900"


@pytest.fixture(scope="module")
def guest(dom0: Dom0) -> Iterator[Guest]:
    """A guest with a disk that stays."""
    guest = dom0.create("plug", [disk(dom0.image("a.img"), "xvda")])
    dom0.wait_connected(guest.device(XVDA))
    yield guest
    dom0.destroy(guest)


@pytest.fixture
def content(dom0: Dom0) -> str:
    """An image with something in it: its path."""
    return made(dom0, "c.img")


def made(dom0: Dom0, name: str) -> str:
    """An image of 4 MiB of noise: its path."""
    image = dom0.image(name, "4M")
    dom0.run(f"dd if=/dev/urandom of={image} bs=1M count=4 conv=notrunc 2>/dev/null")
    return image


def attach(dom0: Dom0, guest: Guest, what: str) -> None:
    """`xl block-attach` of xvdc, then wait until both sides have it."""
    dom0.run(f"xl block-attach {guest.name} '{what}'")
    dom0.wait_connected(guest.device(XVDA), guest.device(XVDC))
    guest.until("[ -b /dev/xvdc ]", "xvdc")


def gone(dom0: Dom0, guest: Guest, descriptors: int) -> None:
    """Nothing of xvdc is left: no node, no worker, no device in the guest, no descriptor."""
    dom0.wait_connected(guest.device(XVDA))
    front = f"/local/domain/{guest.domid}/device/vbd/{XVDC}"
    dom0.until(f"! xenstore-exists {front}", "the frontend's directory to go")
    guest.until("[ ! -b /dev/xvdc ]", "xvdc to go")
    dom0.until(f"[ $(ls /proc/{dom0.pid}/fd | wc -l) -le {descriptors} ]", "descriptors")


def test_attach_read_only_can_be_read_and_not_written(
    dom0: Dom0, guest: Guest, content: str
) -> None:
    """A disk comes while the guest runs, is what it should be, and goes without a trace."""
    descriptors = dom0.descriptors()
    attach(dom0, guest, disk(content, "xvdc", "ro"))
    before = dom0.hash(content)
    assert guest.hash("/dev/xvdc") == before
    assert guest.run("cat /sys/block/xvdc/ro").strip() == "1"
    assert guest.try_run("dd if=/dev/zero of=/dev/xvdc bs=4k count=1 oflag=direct")[0] != 0
    assert dom0.hash(content) == before
    dom0.run(f"xl block-detach {guest.name} xvdc")
    gone(dom0, guest, descriptors)


def test_attach_twice_takes_the_other_image(dom0: Dom0, guest: Guest, content: str) -> None:
    """The same name again with another image is another disk."""
    descriptors = dom0.descriptors()
    for image in (content, made(dom0, "d.img")):
        attach(dom0, guest, disk(image, "xvdc"))
        assert guest.hash("/dev/xvdc") == dom0.hash(image)
        dom0.run(f"xl block-detach {guest.name} xvdc")
        gone(dom0, guest, descriptors)


@pytest.mark.usefixtures("fio")
def test_detach_while_written_to_goes_and_spares_the_other_disk(
    dom0: Dom0, guest: Guest, content: str
) -> None:
    """Linux 6.1 gives a mounted disk up when it is told to: its writers fail, the disk goes, and
    what stays in the image is a file system."""
    descriptors = dom0.descriptors()
    attach(dom0, guest, disk(content, "xvdc"))
    guest.run("/sbin/mke2fs -q -F -t ext4 /dev/xvdc && mount -t ext4 /dev/xvdc /mnt")
    guest.start_fio("xvdc", ENDLESS, file="/mnt/busy")
    guest.wait_progress("xvdc")
    dom0.run(f"xl block-detach {guest.name} xvdc")
    guest.until("[ -s /tmp/xvdc.status ]", "fio to fail")
    assert guest.run("cat /tmp/xvdc.status").strip() != "0"
    guest.run("umount /mnt")
    gone(dom0, guest, descriptors)
    dom0.run(f"e2fsck -fy {content}; e2fsck -fn {content}")
    guest.run("dd if=/dev/xvda of=/dev/null bs=64k count=16 iflag=direct")


def test_cd_insert_of_a_pv_guest_is_refused_and_the_disc_stays(
    dom0: Dom0, guest: Guest, content: str
) -> None:
    """libxl changes media of HVM guests only. A PV guest changes discs by detach and attach."""
    descriptors = dom0.descriptors()
    cdrom = "devtype=cdrom,"
    attach(dom0, guest, cdrom + disk(content, "xvdc", "ro"))
    worker = dom0.look().workers[guest.device(XVDC)]
    other = made(dom0, "d.img")
    assert dom0.try_run(f"xl cd-insert {guest.name} xvdc {other}")[0] != 0
    assert dom0.look().workers[guest.device(XVDC)] == worker
    assert guest.hash("/dev/xvdc") == dom0.hash(content)
    dom0.run(f"xl block-detach {guest.name} xvdc")
    gone(dom0, guest, descriptors)
    attach(dom0, guest, cdrom + disk(other, "xvdc", "ro"))
    assert guest.hash("/dev/xvdc") == dom0.hash(other)
    dom0.run(f"xl block-detach {guest.name} xvdc")
    gone(dom0, guest, descriptors)
