# SPDX-License-Identifier: MIT
"""xenbackd in a driver domain: no dom0, no privilege, /dev/xen/xenbus as the way to xenstore.

The driver domain's own disks are block devices of dom0, served by xenbackd there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from tests.xen.bed.dom0 import CONFIG, LOG, Dom0, disk
from tests.xen.bed.guest import XVDA, XVDB, Guest
from tests.xen.bed.machine import PATIENCE

pytestmark = pytest.mark.xen

LONG: Final = 5 * PATIENCE


@pytest.fixture(scope="module")
def driver(dom0: Dom0) -> Iterator[Guest]:
    """A driver domain with xenbackd running."""
    driver = dom0.create(
        "driver",
        [disk("/dev/vdc", "xvda"), disk("/dev/vdb", "xvdb", "ro")],
        "driver_domain = 1",
        memory=512,
        arguments="bed.root=xvda",
    )
    try:
        driver.run(
            f"cat > /etc/xenbackd.yaml <<'END'\n{CONFIG}\nEND\n"
            "truncate -s 32M /srv/x.img; ln -sf /opt/xenbackd/bin/xenbackd /usr/local/bin/;"
            f" setsid xenbackd serve -c /etc/xenbackd.yaml </dev/null >{LOG} 2>&1 &"
            " echo $! >/run/pid"
        )
        # Not by `xenbackd status`: one after the other would take half of the only CPU from it.
        serves = f"grep -q ' serving: ' {LOG}"
        driver.until(f"{serves} || ! [ -d /proc/$(cat /run/pid) ]", "xenbackd", LONG)
        driver.run(f"{serves} || {{ cat {LOG}; exit 1; }}")
        # Workers are late, for xl too, while the fork server is still importing.
        driver.until("pgrep -f '^xenbackd: fork server'", "the fork server", LONG)
        yield driver
    finally:
        try:
            print(driver.try_run(f"cat {LOG}")[1])  # noqa: T201
        finally:
            dom0.destroy(driver)


@pytest.fixture(scope="module")
def guest(dom0: Dom0, driver: Guest) -> Iterator[Guest]:
    """A guest whose disk the driver domain serves."""
    guest = dom0.create("leaf", [disk("/srv/x.img", "xvda", backend=driver.name)])
    yield guest
    dom0.destroy(guest)


def backends(dom0: Dom0, driver: Guest) -> str:
    """What stands below the driver domain's backend directory."""
    path = f"/local/domain/{driver.domid}/backend"
    return dom0.run(f"xenstore-ls -f {path} 2>/dev/null || true")


def test_driver_domain_serves_a_disk_over_xenbus(dom0: Dom0, driver: Guest, guest: Guest) -> None:
    """What the guest writes is in the driver domain's file; dom0 has no part in it."""
    guest.run("dd if=/dev/urandom of=/dev/xvda bs=64k count=64 oflag=direct")
    assert guest.hash("/dev/xvda") == driver.run("sha256sum /srv/x.img", LONG).split()[0]
    assert not driver.run("ls /var/run/xenstored 2>/dev/null || true").strip(), "no socket there"
    domid = guest.domid
    assert f'/backend/vbd/{domid}/{XVDA}/state = "4"' in backends(dom0, driver)
    assert guest.device(XVDA) not in dom0.look().disks


def test_driver_domain_worker_killed_guest_sees_a_pause(
    dom0: Dom0, driver: Guest, guest: Guest
) -> None:
    """A killed worker is followed by one that takes up the live ring."""
    domid = guest.domid
    title = f"'^xenbackd: vbd/{domid}/'"
    before = driver.run(f"pgrep -f {title}").strip()
    driver.run(f"kill -9 {before}")
    guest.run("dd if=/dev/xvda of=/dev/null bs=64k count=16 iflag=direct", LONG)
    after = driver.run(f"pgrep -f {title}").strip()
    assert after != before
    assert guest.io_errors() == 0


def test_driver_domain_attach_detach_leaves_no_directory(
    dom0: Dom0, driver: Guest, guest: Guest
) -> None:
    """xl leaves the backend directory to the driver domain, which removes it."""
    driver.run("dd if=/dev/urandom of=/srv/y.img bs=1M count=2 2>/dev/null")
    what = disk("/srv/y.img", "xvdb", "ro", driver.name)
    dom0.run(f"xl block-attach {guest.name} '{what}'")
    guest.until("[ -b /dev/xvdb ]", "xvdb")
    assert (
        guest.run("sha256sum /dev/xvdb").split()[0] == driver.run("sha256sum /srv/y.img").split()[0]
    )
    dom0.run(f"xl block-detach {guest.name} xvdb")
    path = f"/local/domain/{driver.domid}/backend/vbd/{guest.domid}/{XVDB}"
    dom0.until(f"! xenstore-exists {path}", "the directory to go")


def test_driver_domain_guest_destroyed_leaves_nothing(
    dom0: Dom0, driver: Guest, guest: Guest
) -> None:
    """`xl destroy` of the guest: no directory, no worker, no domain held by a mapping."""
    domid = guest.domid
    dom0.destroy(guest)
    path = f"/local/domain/{driver.domid}/backend/vbd/{domid}/{XVDA}"
    dom0.until(f"! xenstore-exists {path}", "the directory to go")
    driver.until(f"! pgrep -f '^xenbackd: vbd/{domid}/'", "the worker to go")
    # A grant that is still mapped keeps a dead domain here, as "(null)".
    dom0.until(f"! xl list | awk '{{print $2}}' | grep -qx {domid}", "the domain to go")
