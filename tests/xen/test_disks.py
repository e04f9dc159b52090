# SPDX-License-Identifier: MIT
"""Two disks of a Linux guest on real Xen, served by a worker each, with no QEMU in dom0."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from tests.xen.bed.dom0 import PATIENCE, Dom0, Guest

pytestmark = pytest.mark.xen

XVDA, XVDB, XVDC = 51712, 51728, 51744
IMAGES: Final = ("/srv/a.img", "/srv/b.img")
SIZE: Final = "64M"
LONG: Final = 5 * PATIENCE


def disk(image: str, vdev: str, access: str = "rw") -> str:
    """A disk that libxl leaves to whoever serves `vbd`."""
    return f"format=raw,vdev={vdev},access={access},backendtype=phy,script=/bin/true,target={image}"


@pytest.fixture(scope="module")
def guest(dom0: Dom0) -> Iterator[Guest]:
    """A guest with two empty disks, both connected."""
    for image in IMAGES:
        dom0.run(f"rm -f {image}; truncate -s {SIZE} {image}")
    guest = dom0.create("two", [disk(IMAGES[0], "xvda"), disk(IMAGES[1], "xvdb")])
    print(f"xl create {guest.created:.1f} s, userland {guest.up:.1f} s")  # noqa: T201
    yield guest
    guest.destroy()


def hash_in_dom0(dom0: Dom0, image: str) -> str:
    """SHA-256 of an image."""
    return dom0.run(f"sha256sum {image}", LONG).split()[0]


def hash_in_guest(guest: Guest, device: str) -> str:
    """SHA-256 of a disk as the guest reads it, not as it remembers it."""
    drop = "sync; echo 3 > /proc/sys/vm/drop_caches"
    return guest.run(f"{drop}; sha256sum {device}", LONG).split()[0]


def test_create_two_disks_both_connected_without_qemu(dom0: Dom0, guest: Guest) -> None:
    """xl's own way to a guest with two disks takes a worker each and nothing else."""
    devices = dom0.devices()
    assert set(devices) == {guest.device(XVDA), guest.device(XVDB)}
    assert {x["backend"] for x in devices.values()} == {"Connected"}
    assert len({x["pid"] for x in devices.values()}) == 2
    assert dom0.qemus() == []


def test_mkfs_copy_unmount_clean_on_both_sides(dom0: Dom0, guest: Guest) -> None:
    """A file system the guest made and filled is whole, for the guest and in the image."""
    guest.run("/sbin/mke2fs -q -F -t ext4 /dev/xvdb", LONG)
    guest.run("mount -t ext4 /dev/xvdb /mnt && cp -r /bin /sbin /modules /mnt && sync", LONG)
    guest.run("umount /mnt && /sbin/e2fsck -fn /dev/xvdb", LONG)
    assert hash_in_guest(guest, "/dev/xvdb") == hash_in_dom0(dom0, IMAGES[1])
    dom0.run(f"e2fsck -fn {IMAGES[1]}", LONG)


def test_fstrim_frees_blocks_of_the_image(dom0: Dom0, guest: Guest) -> None:
    """What the guest has deleted and trimmed takes no room in dom0."""
    guest.run("mount -t ext4 /dev/xvdb /mnt && rm -r /mnt/bin /mnt/sbin /mnt/modules && sync")
    before = int(dom0.run(f"du -k {IMAGES[1]}").split()[0])
    guest.run("fstrim /mnt; sync; umount /mnt", LONG)
    after = int(dom0.run(f"du -k {IMAGES[1]}").split()[0])
    assert after < before / 2, f"{before} KiB before, {after} after"
    dom0.run(f"e2fsck -fn {IMAGES[1]}", LONG)


def test_worker_killed_under_verified_io_guest_sees_a_pause(dom0: Dom0, guest: Guest) -> None:
    """One disk's worker gets SIGKILL: no I/O error, nothing lost, the other disk's stays."""
    if guest.try_run("which fio")[0]:
        pytest.skip("the bed has no fio")
    hurt, other = guest.device(XVDA), guest.device(XVDB)
    before = dom0.devices()
    written = before[hurt]["counters"].get("wr_req", 0)
    fio = "--rw=randwrite --bs=4k --size=6m --iodepth=8 --ioengine=libaio --direct=1"
    verify = "--verify=crc32c --do_verify=1 --verify_fatal=1 --minimal"
    for name in ("xvda", "xvdb"):
        guest.run(
            f"(fio --name=v --filename=/dev/{name} {fio} {verify} >/tmp/{name}.out 2>&1;"
            f" echo $? >/tmp/{name}.status) </dev/null >/dev/null 2>&1 &"
        )
    dom0.wait(lambda: dom0.devices()[hurt]["counters"].get("wr_req", 0) > written + 20, "writes")
    dom0.run(f"kill -9 {before[hurt]['pid']}")
    took = dom0.wait(
        lambda: (
            dom0.devices()[hurt]["phase"] == "serving"
            and dom0.devices()[hurt]["pid"] != before[hurt]["pid"]
        ),
        "the successor",
    )
    print(f"killed under load, seen to serve again after {took:.1f} s")  # noqa: T201
    for name in ("xvda", "xvdb"):
        out = guest.run(
            f"until [ -s /tmp/{name}.status ]; do sleep 1; done;"
            f" cat /tmp/{name}.status; head -c 2000 /tmp/{name}.out",
            LONG,
        )
        assert out.split()[0] == "0", f"{name}: {out}"
    after = dom0.devices()
    assert guest.run("dmesg | grep -ci 'i/o error' || true").strip() == "0"
    assert after[hurt]["restarts"] == before[hurt]["restarts"] + 1
    assert after[other]["pid"] == before[other]["pid"]
    assert after[other]["restarts"] == before[other]["restarts"]


def test_pause_unpause_goes_on(dom0: Dom0, guest: Guest) -> None:
    """A paused guest's disks wait with it."""
    dom0.run(f"xl pause {guest.name} && sleep 2 && xl unpause {guest.name}")
    guest.run("dd if=/dev/xvda of=/dev/null bs=64k count=16 iflag=direct")
    assert {x["backend"] for x in dom0.devices().values()} == {"Connected"}


def test_attach_read_only_then_detach(dom0: Dom0, guest: Guest) -> None:
    """A third disk comes and goes while the guest runs; it can be read and not written."""
    dom0.run("dd if=/dev/urandom of=/srv/c.img bs=1M count=4 2>/dev/null")
    dom0.run(f"xl block-attach {guest.name} '{disk('/srv/c.img', 'xvdc', 'ro')}'")
    name = guest.device(XVDC)
    guest.run("n=0; until [ -b /dev/xvdc ] || [ $n = 60 ]; do sleep 1; n=$((n + 1)); done")
    assert hash_in_guest(guest, "/dev/xvdc") == hash_in_dom0(dom0, "/srv/c.img")
    assert guest.try_run("dd if=/dev/zero of=/dev/xvdc bs=4k count=1 oflag=direct")[0] != 0
    dom0.run(f"xl block-detach {guest.name} xvdc")
    dom0.wait(lambda: name not in dom0.devices(), "the third disk to go")
    assert f"{XVDC}" not in dom0.backends()
    guest.run("[ ! -b /dev/xvdc ]")


def test_reboot_takes_the_disks_along(dom0: Dom0, guest: Guest) -> None:
    """`xl reboot`: a new domain with the same disks, nothing of the old one."""
    before = guest.domid
    content = hash_in_dom0(dom0, IMAGES[0])
    dom0.run(f"xl reboot {guest.name}")
    dom0.wait(
        lambda: dom0.try_run(f"xl domid {guest.name}")[1].strip() not in ("", f"{before}"),
        "the new domain",
    )
    guest.wait()
    dom0.wait(
        lambda: [x["backend"] for x in dom0.devices().values()] == ["Connected"] * 2,
        "two connected disks",
    )
    assert set(dom0.devices()) == {guest.device(XVDA), guest.device(XVDB)}
    assert hash_in_guest(guest, "/dev/xvda") == content


def test_save_restore_takes_the_disks_along(dom0: Dom0, guest: Guest) -> None:
    """`xl save` lets the disks go, `xl restore` connects them again in a new domain."""
    guest.run("echo kept > /tmp/kept")
    content = hash_in_dom0(dom0, IMAGES[0])
    dom0.run(f"xl save {guest.name} /srv/saved", LONG)
    dom0.wait(lambda: not dom0.devices(), "no disk")
    assert dom0.workers() == []
    dom0.run("xl restore /srv/saved && rm /srv/saved", LONG)
    guest.wait()
    assert guest.run("cat /tmp/kept").strip() == "kept"
    assert hash_in_guest(guest, "/dev/xvda") == content
    assert {x["backend"] for x in dom0.devices().values()} == {"Connected"}


def test_destroy_leaves_nothing(dom0: Dom0, guest: Guest) -> None:
    """`xl destroy`: no node, no worker, no domain that something still holds."""
    domid = guest.domid
    took = guest.destroy()
    print(f"xl destroy {took:.1f} s")  # noqa: T201
    dom0.wait(lambda: not dom0.devices(), "no device")
    dom0.wait(lambda: dom0.workers() == [], "no worker")
    assert f"/{domid}/" not in dom0.backends()
    assert dom0.try_run(f"xenstore-ls /local/domain/{domid}")[0] != 0
    dom0.wait(lambda: len(dom0.run("xl list").splitlines()) == 2, "dom0 alone")
