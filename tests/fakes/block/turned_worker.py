# SPDX-License-Identifier: MIT
"""A worker that its guest has taken over: does what its frontend writes into the node `attack`.

Imported by the fork server, and by nobody else: it takes the place of the type `block` there, so
that all else is real, the jail, its list of system calls, the disk it serves. The node holds lines
`name argument`, the names of `tests.fakes.block.attacks`. What came of line N it tells in its
counters: `outcome_N` is 1 for success, an errno + 1000 for a refusal.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from shared import device_types
from tests.fakes.block.attacks import ATTACKS, REFUSED, SUCCESS
from worker.devices.block.backend import BlockDevice


class TurnedDisk(BlockDevice):
    """Serves until it is told to attack, and goes on serving if it lives."""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._outcomes: dict[str, int] = {}

    def frontend_changed(self, node: str, untrusted_value: bytes | None) -> None:
        """Attack."""
        super().frontend_changed(node, untrusted_value)
        if node != "attack" or not untrusted_value:
            return
        for number, line in enumerate(untrusted_value.decode().splitlines()):
            name, _, argument = line.partition(" ")
            self._outcomes[f"outcome_{number}"] = self._attack(name, argument)

    def counters(self) -> dict[str, int]:
        """What became of the attacks, when there were any."""
        return self._outcomes or super().counters()

    def _attack(self, name: str, argument: str) -> int:
        try:
            ATTACKS[name](argument)
        except OSError as error:
            return REFUSED + (error.errno or 0)
        return SUCCESS


device_types.RESOLVED["block"] = replace(
    device_types.resolve("block"), backend=f"{__name__}:{TurnedDisk.__name__}"
)
