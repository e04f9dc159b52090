# SPDX-License-Identifier: MIT
"""A qdisk on real Xen, with our program where libxl would start QEMU."""

from __future__ import annotations

import pytest

from tests.xen.bed.dom0 import Dom0
from tests.xen.bed.image import PRODUCT

pytestmark = pytest.mark.xen


def test_qdisk_device_model_override_serves_without_qemu(dom0: Dom0) -> None:
    """`device_model_override` leaves the qdisk to a worker; destroy ends the device model."""
    dom0.run("rm -f /srv/q.img; truncate -s 32M /srv/q.img")
    more = (
        'device_model_version = "qemu-xen"\n'
        f'device_model_override = "{PRODUCT}/bin/xenbackd-device-model"'
    )
    guest = dom0.create("q", ["format=raw,vdev=xvda,backendtype=qdisk,target=/srv/q.img"], more)
    try:
        guest.run("dd if=/dev/urandom of=/dev/xvda bs=64k count=64 oflag=direct")
        inside = guest.run("sha256sum /dev/xvda").split()[0]
        assert inside == dom0.run("sha256sum /srv/q.img").split()[0]
        devices = dom0.devices()
        assert set(devices) == {guest.device(51712, "qdisk")}
        assert dom0.qemus() == []
        assert "device-model" in dom0.run("pgrep -af xenbackd-device-model")
    finally:
        guest.destroy()
    dom0.wait(lambda: not dom0.devices(), "no device")
    dom0.wait(lambda: dom0.try_run("pgrep -f [x]enbackd-device-model")[0] != 0, "no device model")
