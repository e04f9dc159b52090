# SPDX-License-Identifier: MIT
"""Who a worker link works for, as it sees it: the device."""

from __future__ import annotations

from typing import Protocol

from shared import lifecycle_types as t
from shared import messages as m
from shared.errors import Blame


class LinkOwner(Protocol):
    """The device."""

    @property
    def frontend_path(self) -> str:
        """Directory of its frontend."""

    def feed(self, event: t.Event) -> None:
        """Take an event of the life cycle."""

    def worker_said_illegal(self, event: t.Event) -> bool:
        """Take an event a worker caused; True if it was impossible now."""

    def worker_spoke(self) -> None:
        """Any message came."""

    def report(self, blame: Blame, text: str, *, stage: str) -> None:
        """Tell log, event stream and xenstore what failed."""

    def nodes_given(self, nodes: m.Nodes, *, rewrite_state: bool | None) -> None:
        """Nodes to publish: with the next state (None), or now if its worker runs the ring."""
