# SPDX-License-Identifier: MIT
"""The guest side of the type `toy`: it knows devices by number and by letter, and has no frontend.

`toya` is number 0, `toyb` number 1.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

from embedded.guest.side import DeviceOption, GuestSide
from embedded.toolstack import NewDevice
from shared.errors import ConfigError

if TYPE_CHECKING:
    from embedded.domain import Domain
    from embedded.guest.frontend import Frontend
    from shared.xenstore.blocking import BlockingXenstore

KIND: Final = "toy"


class ToySide(GuestSide):
    """Toys of a guest."""

    kind = KIND
    noun = "toy"
    option = DeviceOption("--toy", "TOY", "its name: toya, toyb, …")

    def new_devices(self, arguments: Sequence[str], taken: Collection[int]) -> list[NewDevice]:
        return [
            NewDevice(
                kind=KIND,
                backend_kind=KIND,
                devid=self.number_of(name),
                name=name,
                backend={},
                frontend={},
            )
            for name in arguments
        ]

    def number_of(self, name: str) -> int:
        if len(name) == len(KIND) + 1 and name.startswith(KIND) and "a" <= name[-1] <= "z":
            return ord(name[-1]) - ord("a")
        return super().number_of(name)

    def frontend(
        self, domain: Domain, xs: BlockingXenstore, devid: int, protocol: str
    ) -> Frontend[Any]:
        raise ConfigError("a toy has no frontend")


GUEST: Final = ToySide()
