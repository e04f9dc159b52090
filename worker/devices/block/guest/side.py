# SPDX-License-Identifier: MIT
"""The guest side of block devices: `xenbackd guest` with `--disk`, `io` and `dd`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from embedded.guest.console import Column, Console
from embedded.guest.control import GuestDevice
from embedded.guest.side import Command, DeviceOption, GuestSide
from embedded.toolstack import NewDevice
from worker.devices.block.guest import dd_command, io_command
from worker.devices.block.guest.disk import KIND, DiskSpec, device_number
from worker.devices.block.guest.toolstack import new_disks

if TYPE_CHECKING:
    from embedded.domain import Domain
    from embedded.guest.exchange import Exchange
    from shared.xenstore.blocking import BlockingXenstore
    from worker.devices.block.guest.blkfront import BlockFrontend

EPILOG = """\
Without vdev a disk gets the next free name. DISK is a disk's vdev (xvda) or device number.

  xenbackd guest create demo --disk /tmp/a.img --disk /tmp/b.img,ro
  xenbackd guest io demo xvda --rw randread --bs 4k --iodepth 32 --runtime 5
  xenbackd guest dd demo xvda --to copy.img
"""


class BlockSide(GuestSide):
    """Disks of a guest."""

    kind = KIND
    noun = "disk"
    option = DeviceOption("--disk", "DISK", "PATH[,ro][,vdev=xvda][,kind=vbd][,format=raw]")
    columns = (Column("SIZE", right=True), Column("MODE"))
    commands = (
        Command(
            "io", "load a disk and print the figures", io_command.add_arguments, io_command.run
        ),
        Command(
            "dd",
            "copy a disk's content to a file or from one",
            dd_command.add_arguments,
            dd_command.run,
        ),
    )
    epilog = EPILOG

    def new_devices(self, arguments: Sequence[str], taken: Collection[int]) -> list[NewDevice]:
        return new_disks([DiskSpec.parse(text) for text in arguments], taken)

    def number_of(self, name: str) -> int:
        return device_number(name)

    def frontend(
        self, domain: Domain, xs: BlockingXenstore, devid: int, protocol: str
    ) -> BlockFrontend:
        from worker.devices.block.guest.blkfront import BlockFrontend

        return BlockFrontend(domain, xs, devid, protocol=protocol)

    def details(self, frontend: Any) -> Mapping[str, Any]:
        from worker.devices.block.guest.answers import details

        return msgspec.structs.asdict(details(frontend))

    def answer(self, frontend: Any, body: msgspec.Raw, exchange: Exchange) -> None:
        from worker.devices.block.guest.answers import answer

        answer(frontend, body, exchange)

    def cells(self, device: GuestDevice, console: Console) -> list[str]:
        from worker.devices.block.guest.client import details_of

        disk = details_of(device)
        return [console.size(disk.size), "ro" if disk.readonly else "rw"]


GUEST: Final = BlockSide()
