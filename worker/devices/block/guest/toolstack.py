# SPDX-License-Identifier: MIT
"""What a toolstack writes for a disk.

Source of the nodes: Xen 4.19, tools/libs/light/libxl_disk.c (device_disk_add). There, `removable`
and `bootable` come before `state`; all of it is one transaction, so nobody sees the difference.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from embedded.toolstack import NewDevice, Xenstore, attach_device
from worker.devices.block.guest.disk import KIND, DiskSpec, assign_names, name_of

_TYPES: Final = {"vbd": "phy", "vbd3": "tap"}
"""`type` of a backend kind where it differs."""


def new_disks(disks: Sequence[DiskSpec], taken: Collection[int] = ()) -> list[NewDevice]:
    """Disks to attach; those that name no vdev get the next free one.

    Args:
        disks: in the order they are attached.
        taken: device numbers the guest has already.

    Raises:
        ConfigError: two disks have the same name.
    """
    return [new_disk(disk) for disk in assign_names(disks, [name_of(devid) for devid in taken])]


def new_disk(disk: DiskSpec) -> NewDevice:
    """A disk to attach; it has a vdev."""
    return NewDevice(
        kind=KIND,
        backend_kind=disk.kind,
        devid=disk.devid,
        name=disk.vdev,
        backend={
            "removable": "0",
            "bootable": "1",
            "dev": disk.vdev,
            "type": _TYPES.get(disk.kind, disk.kind),
            "mode": "r" if disk.readonly else "w",
            "device-type": "disk",
            "discard-enable": "0" if disk.readonly else "1",
            "specification": "xen",
            "params": disk.params,
        },
        frontend={
            "virtual-device": str(disk.devid),
            "device-type": "disk",
            "trusted": "1",
        },
    )


def attach_disk(xs: Xenstore, domid: int, disk: DiskSpec, backend_domid: int = 0) -> int:
    """Attach one disk; returns its device number. Raises as `attach_device`."""
    device = new_disk(disk)
    attach_device(xs, domid, device, backend_domid)
    return device.devid
