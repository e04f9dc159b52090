# SPDX-License-Identifier: MIT
"""What a device type brings for the guests of the embedded hypervisor: its `GuestSide`.

The side stands for the type in three places: on the command line (the option that asks for a
device, the type's own sub-commands, what is printed of a device), in the toolstack's place (the
nodes of a new device) and in the guest's process (the frontend, the requests to it). It is made in
all of them, so its module imports only what all need; the frontend, the figures and the commands
are imported when they are used.
"""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

import msgspec

from embedded.guest.console import Column, Console
from embedded.guest.control import GuestDevice
from embedded.toolstack import NewDevice
from shared.errors import ConfigError

if TYPE_CHECKING:
    from embedded.domain import Domain
    from embedded.guest.exchange import Exchange
    from embedded.guest.frontend import Frontend
    from shared.xenstore.blocking import BlockingXenstore


PROTOCOLS: Final = ("x86_64-abi", "x86_32-abi", "arm-abi")
"""What a guest may call the layout of its requests (xen/include/public/io/protocols.h)."""


class DeviceOption(NamedTuple):
    """The option of `xenbackd guest create` and `attach` that asks for a device of the type."""

    flag: str
    """As `--nic`."""
    metavar: str
    syntax: str
    """What the argument looks like, in one line."""


class Command(NamedTuple):
    """A sub-command of `xenbackd guest`. Its first argument, NAME, is the guest's."""

    name: str
    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    """Adds what comes after NAME."""
    run: Callable[[argparse.Namespace, Console], int]
    """Gets, besides its own, `args.name` and `args.embedded_dir` for `launch.find_guest`."""


class GuestSide(ABC):
    """A device type's side in the guest; an instance without state, named by the manifest."""

    kind: ClassVar[str]
    """Directory below the guest's `device/` where its frontends are."""
    noun: ClassVar[str] = "device"
    """What people call such a device."""
    option: ClassVar[DeviceOption]
    columns: ClassVar[tuple[Column, ...]] = ()
    """Of its own in `xenbackd guest list`; `cells` fills them."""
    commands: ClassVar[tuple[Command, ...]] = ()
    epilog: ClassVar[str] = ""
    """Lines for the help of `xenbackd guest`: what the arguments mean, an example."""

    # For the toolstack

    @abstractmethod
    def new_devices(self, arguments: Sequence[str], taken: Collection[int]) -> list[NewDevice]:
        """Devices as the command line asks for them, in its order.

        Args:
            arguments: those of the option, one for each device.
            taken: device numbers of this kind that the guest has already.

        Raises:
            ConfigError: an argument is wrong, or a number is taken.
        """

    def number_of(self, name: str) -> int:
        """Device number of a device that is called so; raises ConfigError if none can be."""
        if not name.isascii() or not name.isdecimal():
            raise ConfigError(f"{self.noun} {name!r}: expected a number")
        return int(name)

    # In the guest's process

    @abstractmethod
    def frontend(
        self, domain: Domain, xs: BlockingXenstore, devid: int, protocol: str
    ) -> Frontend[Any]:
        """A frontend for the device; `protocol` is the guest's, one of `PROTOCOLS`."""

    def details(self, frontend: Any) -> Mapping[str, Any]:
        """What to say of a device besides its states: numbers, texts, truth values."""
        return {}

    def answer(self, frontend: Any, body: msgspec.Raw, exchange: Exchange) -> None:
        """Carry out a request to a device, in a thread of its own.

        Raises:
            msgspec.MsgspecError: the body is none of the type's requests.
            BlamedError: it failed.
            OSError: the client went away.
        """
        raise ConfigError(f"{self.noun} {frontend.name}: nothing can be asked of it")

    # For people

    def cells(self, device: GuestDevice, console: Console) -> list[str]:
        """The cells of `columns` for a device."""
        return ["" for _ in self.columns]
