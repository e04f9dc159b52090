# SPDX-License-Identifier: MIT
"""Reads nodes from the snapshots of a device's two directories (S1, S2).

The questions are the same but the blame differs: the guest writes the frontend's directory, the
operator's tools write the backend's.
"""

from __future__ import annotations

from shared.errors import ConfigError, GuestFault
from shared.messages import Nodes
from shared.untrusted import parse_int, quote


class FrontendNodes:
    """The frontend's directory, in which nothing is trusted. Errors are `GuestFault`."""

    def __init__(self, untrusted_nodes: Nodes) -> None:
        self._untrusted = untrusted_nodes

    def __contains__(self, node: str) -> bool:
        return node in self._untrusted

    def integer(self, node: str, lo: int, hi: int, default: int | None = None) -> int:
        """A decimal number; `default` is only for a node that does not exist."""
        if default is not None and node not in self._untrusted:
            return default
        return parse_int(self._untrusted.get(node), f"frontend node: {node}", lo, hi)

    def flag(self, node: str) -> bool:
        """0 or 1; absent means 0."""
        return self.integer(node, 0, 1, default=0) == 1

    def choice(self, node: str, allowed: tuple[str, ...], default: str) -> str:
        """One of the allowed words; `default` if the node does not exist."""
        untrusted = self._untrusted.get(node)
        if untrusted is None:
            return default
        for word in allowed:
            if untrusted == word.encode():
                return word
        raise GuestFault(
            f"frontend node: {node}: {quote(untrusted)} is none of {', '.join(allowed)}"
        )


class BackendNodes:
    """The backend's directory, as the toolstack wrote it. Errors are `ConfigError`."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes

    def text(self, node: str) -> str:
        """The text of a node, which must exist and be UTF-8."""
        if node not in self._nodes:
            raise ConfigError(f"backend node: {node}: missing")
        try:
            return self._nodes[node].decode()
        except UnicodeDecodeError as error:
            raise ConfigError(f"backend node: {node}: not UTF-8") from error

    def choice(self, node: str, allowed: tuple[str, ...], default: str | None = None) -> str:
        """One of the allowed words; without a default the node must exist."""
        if default is not None and node not in self._nodes:
            return default
        text = self.text(node)
        if text not in allowed:
            raise ConfigError(f"backend node: {node}: {text!r} is none of {', '.join(allowed)}")
        return text

    def flag(self, node: str, *, default: bool) -> bool:
        """0 or 1."""
        return self.choice(node, ("0", "1"), "1" if default else "0") == "1"
