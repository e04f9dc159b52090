# SPDX-License-Identifier: MIT
"""The frontends of the three types: an echo's, each with the steps of its own."""

from __future__ import annotations

from shared.xenbus import XenbusState
from tests.fakes.echo.guest import EchoFrontend


class SilentFrontend(EchoFrontend):
    """Has no `state`."""

    kind = "vsilent"
    has_state = False


class ScriptedFrontend(EchoFrontend):
    """Waits for Connected like any other."""

    kind = "vscripted"


class MovingFrontend(EchoFrontend):
    """Changes its configuration while it is connected."""

    kind = "vmoving"

    def reconfigure(self) -> None:
        """Ask for it, as xen-netfront does for another headroom; does not wait."""
        self._write_state(XenbusState.RECONFIGURING)

    @property
    def connected(self) -> bool:
        """Between Reconfiguring and Connected its ring still works."""
        return self.state in (XenbusState.CONNECTED, XenbusState.RECONFIGURING)

    def _step(self) -> None:
        if self.backend_state is XenbusState.RECONFIGURED:
            if self.state is XenbusState.RECONFIGURING:
                self._write_state(XenbusState.CONNECTED)
        elif self.backend_state is XenbusState.RECONFIGURING:
            if self.state is XenbusState.CONNECTED:
                self.reconfigure()  # the toolstack asks for it, as of xen-scsifront
        else:
            super()._step()
