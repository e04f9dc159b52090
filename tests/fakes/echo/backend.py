# SPDX-License-Identifier: MIT
"""The backend of the type `echo`: says everything again, in capitals."""

from __future__ import annotations

from shared.messages import Nodes
from shared.ring import BackRing
from tests.fakes.echo.about import SLOT_SIZE
from worker.device import Device
from worker.nodes import FrontendNodes


class Echo(Device):
    """One echo."""

    ring: BackRing

    def init(self, backend: Nodes) -> Nodes:
        """Its greeting is the node that the toolstack wrote."""
        return {"greeting": backend["name"]}

    def initialise(self, backend: Nodes, untrusted_frontend: Nodes, *, resume: bool) -> Nodes:
        """Map the ring and bind the channel."""
        frontend = FrontendNodes(untrusted_frontend)
        reference = frontend.integer("ring-ref", 1, 2**32 - 1)
        port = frontend.integer("event-channel", 1, 2**31 - 1)
        try:
            self.ring = BackRing(self.map([reference]).address, SLOT_SIZE)
            self.bind(port)
            self.event()
            self.notify()
        except BaseException:
            self.disconnect()
            raise
        return {}

    def event(self) -> None:
        """Answer what is waiting."""
        for _ in range(self.ring.waiting()):
            self.ring.put_response(self.ring.take_request().upper())
        if self.ring.push_responses():
            self.notify()
        self.more = self.ring.final_check() > 0
