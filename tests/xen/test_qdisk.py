# SPDX-License-Identifier: MIT
"""A qdisk on real Xen, with our program where libxl would start QEMU."""

from __future__ import annotations

from typing import Final

import pytest

from tests.fakes.waiting import wait_until
from tests.xen.bed.dom0 import Dom0
from tests.xen.bed.guest import XVDA, XVDB
from tests.xen.bed.image import PRODUCT
from tests.xen.bed.machine import PATIENCE

pytestmark = pytest.mark.xen

PROGRAM: Final = f"{PRODUCT}/bin/xenbackd-device-model"
# The kinds that have no handler: libxl hands their directories to a QEMU, and waits for none.
MORE: Final = f"""\
device_model_version = "qemu-xen"
device_model_override = "{PROGRAM}"
vfb = ["vnc=1"]
p9 = ["tag=share,path=/srv,security_model=none"]
"""


def test_qdisk_device_model_override_serves_without_qemu(dom0: Dom0) -> None:
    """The qdisk is served, also one attached later, vfb and p9 are left alone; all of it ends with
    the guest."""
    first, second = dom0.image("q.img", "8M"), dom0.image("r.img", "8M")
    guest = dom0.create("q", [f"format=raw,vdev=xvda,backendtype=qdisk,target={first}"], MORE)
    domid = guest.domid
    try:
        dom0.wait_connected(guest.device(XVDA, "qdisk"))
        guest.run("dd if=/dev/urandom of=/dev/xvda bs=64k count=32 oflag=direct")
        assert guest.hash("/dev/xvda") == dom0.hash(first)
        assert dom0.qemus() == []
        assert any(PROGRAM in x for x in dom0.look().processes.values())
        for kind in ("vfb", "9pfs"):
            path = f"/local/domain/0/backend/{kind}/{domid}/0/state"
            assert dom0.run(f"xenstore-read {path}").strip() == "1"
        dom0.run(f"xl block-attach q format=raw,vdev=xvdb,backendtype=qdisk,target={second}")
        dom0.wait_connected(guest.device(XVDA, "qdisk"), guest.device(XVDB, "qdisk"))
        guest.until("[ -b /dev/xvdb ]", "xvdb")
        dom0.run("xl block-detach q xvdb")
        dom0.wait_connected(guest.device(XVDA, "qdisk"))
    finally:
        dom0.destroy(guest)
    dom0.nothing_left(domid)
    wait_until(
        lambda: not any(PROGRAM in x for x in dom0.look().processes.values()),
        "the device model to end",
        PATIENCE * dom0.machine.slowness,
    )
