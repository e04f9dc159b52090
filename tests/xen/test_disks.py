# SPDX-License-Identifier: MIT
"""Two disks of a Linux guest on real Xen, served by a worker each, with no QEMU in dom0."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from tests.xen.bed.dom0 import Dom0, disk
from tests.xen.bed.guest import XVDA, XVDB, Guest

pytestmark = pytest.mark.xen

IMAGES: Final = ("a.img", "b.img")
MIB: Final = 1024
"""KiB, which du counts."""


@pytest.fixture(scope="module")
def guest(dom0: Dom0) -> Iterator[Guest]:
    """A guest with two empty disks."""
    first, second = map(dom0.image, IMAGES)
    guest = dom0.create("two", [disk(first, "xvda"), disk(second, "xvdb")])
    print(f"xl create {guest.created:.1f} s, userland {guest.up:.1f} s")  # noqa: T201
    yield guest
    dom0.destroy(guest)


def taken(dom0: Dom0, image: str) -> int:
    """KiB that an image takes on dom0's disk."""
    return int(dom0.run(f"sync {image}; du -k {image}").split()[0])


def test_create_two_disks_both_connected_without_qemu(dom0: Dom0, guest: Guest) -> None:
    """xl's own way to a guest with two disks takes a worker each and nothing else."""
    names = {guest.device(XVDA), guest.device(XVDB)}
    seen = dom0.wait_connected(*names)
    assert len(set(seen.workers.values())) == 2
    assert dom0.qemus() == []
    told = dom0.devices()
    assert {name: x["pid"] for name, x in told.items()} == seen.workers
    assert {x["backend"] for x in told.values()} == {"Connected"}


def test_mkfs_copy_unmount_clean_on_both_sides(dom0: Dom0, guest: Guest) -> None:
    """A file system the guest made and filled is whole, for the guest and in the image."""
    guest.run("/sbin/mke2fs -q -F -t ext4 /dev/xvdb")
    guest.run("mount -t ext4 /dev/xvdb /mnt && cp -r /bin /sbin /modules /mnt && sync")
    guest.run("umount /mnt && /sbin/e2fsck -fn /dev/xvdb")
    assert guest.hash("/dev/xvdb") == dom0.hash("/srv/b.img")
    dom0.run("e2fsck -fn /srv/b.img")


def test_fstrim_after_delete_frees_blocks_of_the_image(dom0: Dom0, guest: Guest) -> None:
    """What the guest has deleted and trimmed takes no room in dom0."""
    guest.run("/sbin/mke2fs -q -F -t ext4 /dev/xvdb && mount -t ext4 /dev/xvdb /mnt")
    guest.run("dd if=/dev/urandom of=/mnt/big bs=1M count=16 conv=fsync")
    full = taken(dom0, "/srv/b.img")
    guest.run("rm /mnt/big && sync && fstrim /mnt && umount /mnt")
    assert taken(dom0, "/srv/b.img") <= full - 15 * MIB
    dom0.run("e2fsck -fn /srv/b.img")


def test_destroy_leaves_nothing(dom0: Dom0, guest: Guest) -> None:
    """`xl destroy`: no node, no worker, no domain that something still holds."""
    domid = guest.domid
    took = dom0.destroy(guest)
    print(f"xl destroy {took:.1f} s")  # noqa: T201
    dom0.nothing_left(domid)
