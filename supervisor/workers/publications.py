# SPDX-License-Identifier: MIT
"""What a worker may have written into its own backend directory, and how much of it.

A worker that was taken over has only this way into xenstore, so each name is held against what its
handler may publish (`shared.device_types`), and their number against what a directory may hold: every
node here is read again with each snapshot, and memory of xenstored. Sizes are bounded by
`shared.messages`. What values mean is between the worker and its own frontend.
"""

from __future__ import annotations

from shared.device_types import DeviceType
from shared.limits import PUBLISHED_NODES_MAX
from shared.messages import Nodes


class Publications:
    """The names one worker has used so far."""

    def __init__(self, handler: DeviceType) -> None:
        self._handler = handler
        self._names: set[str] = set()

    def clear(self) -> None:
        """Another worker begins."""
        self._names.clear()

    def refusal(self, untrusted_nodes: Nodes) -> str:
        """Why not; "" if all of them may be published, and they count from then on."""
        for name in untrusted_nodes:
            if not self._handler.may_publish(name):
                return f"node {name[:64]!r}: not for it to publish"
        names = self._names | untrusted_nodes.keys()
        if len(names) > PUBLISHED_NODES_MAX:
            return f"{len(names)} nodes: more than it may have"
        self._names = names
        return ""
