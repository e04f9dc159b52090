# SPDX-License-Identifier: MIT
"""Answers each question in the ring with the time. Both are two 64-bit numbers: id and time."""

import struct
from time import time_ns

from shared.hypervisor.interface import PORT_MAX, REFERENCE_MAX
from shared.messages import Nodes
from shared.ring import BackRing
from worker.device import Device
from worker.nodes import FrontendNodes

SLOT = struct.Struct("<QQ")


class Clock(Device):
    """One clock."""

    answers = 0

    def init(self, backend: Nodes) -> Nodes:
        """What must be opened is opened here, before the jail. Its nodes go with InitWait."""
        return {"unit": b"ns"}

    def initialise(self, backend: Nodes, untrusted_frontend: Nodes, *, resume: bool) -> Nodes:
        """Map the ring and bind the channel; a node that makes no sense is a GuestFault."""
        frontend = FrontendNodes(untrusted_frontend)
        reference = frontend.integer("ring-ref", 1, REFERENCE_MAX)
        try:
            self.ring = BackRing(self.map([reference]).address, SLOT.size)
            self.bind(frontend.integer("event-channel", 1, PORT_MAX))
            self.event()  # what a dead worker left, or what came before the channel was bound
            self.notify()
        except BaseException:
            self.disconnect()  # what `map` and `bind` took
            raise
        return {}

    def event(self) -> None:
        """Answer what is waiting, one ring full at most: orders and beats come in between."""
        for _ in range(self.ring.waiting()):
            identity, _unused = SLOT.unpack(self.ring.take_request())
            self.ring.put_response(SLOT.pack(identity, time_ns() + int(self.options.ahead * 1e9)))
            self.answers += 1
        if self.ring.push_responses():
            self.notify()
        self.more = self.ring.final_check() > 0

    def command(self, name: str, arguments: object) -> str:
        """Obey the one command that the manifest declares: from now on these options hold."""
        self.options = arguments
        return f"{self.options.ahead:g} s ahead"

    def counters(self) -> dict[str, int]:
        return {"answers": self.answers}
