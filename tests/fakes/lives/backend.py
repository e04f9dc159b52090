# SPDX-License-Identifier: MIT
"""An echo that stops in the middle of a hook, so that it can be killed there."""

from __future__ import annotations

import select

from shared.messages import Nodes
from tests.fakes.echo.backend import Echo


class StallingEcho(Echo):
    """The node `stall` of the backend directory names the hook that never ends."""

    stall = b""

    def init(self, backend: Nodes) -> Nodes:
        """Its greeting may change from one reconfiguration to the next."""
        self._stall_in(b"init", backend.get("stall", b""))
        return super().init(backend)

    def initialise(self, backend: Nodes, untrusted_frontend: Nodes, *, resume: bool) -> Nodes:
        """As any echo, unless it is told to stop."""
        self._stall_in(b"initialise", backend.get("stall", b""))
        return super().initialise(backend, untrusted_frontend, resume=resume)

    def disconnect(self) -> None:
        """As any echo, unless it is told to stop."""
        if self.port is not None:
            self._stall_in(b"disconnect", self.stall)
        super().disconnect()

    def backend_changed(self, node: str, value: bytes | None) -> None:
        """There is no other way to tell `disconnect`; the greeting says that it was told."""
        if node == "stall":
            self.stall = value or b""
            self.publish({"greeting": b"stall: " + self.stall}, False)

    def _stall_in(self, hook: bytes, told: bytes) -> None:
        self.stall = told
        while hook == told:
            select.poll().poll(1000)
