# SPDX-License-Identifier: MIT
"""Our end of the line to dom0's agent: numbered requests as JSON lines, each with its answer.

An answer that comes after its time is dropped, so one that was given up spoils no other.
"""

from __future__ import annotations

import json
import socket
import time
from typing import Any, Final

GRACE: Final = 60.0
"""Seconds beyond a request's own limit: the agent ends what takes longer, then has to say so."""


class SilenceError(Exception):
    """The agent does not answer."""


class Agent:
    """The line, over a connected socket, which it owns; a second there is `slowness` here."""

    def __init__(self, line: socket.socket, slowness: float = 1.0) -> None:
        self._line = line
        self._slowness = slowness
        self._received = b""
        self._asked = 0

    def answer(self, number: int, timeout: float) -> dict[str, Any]:
        """The answer to one request; 0 is what the agent says once it is up.

        Raises:
            SilenceError: none came in time.
            ConnectionError: the machine is gone.
        """
        end = time.monotonic() + timeout
        while True:
            while b"\n" not in self._received:
                self._line.settimeout(max(0.001, end - time.monotonic()))
                try:
                    data = self._line.recv(65536)
                except TimeoutError:
                    raise SilenceError(f"dom0 is silent for {timeout:g} s") from None
                if not data:
                    raise ConnectionError("the machine is gone")
                self._received += data
            line, self._received = self._received.split(b"\n", 1)
            reply: dict[str, Any] = json.loads(line)
            if reply["id"] == number:
                return reply

    def request(self, timeout: float, **request: Any) -> dict[str, Any]:
        """One request and its answer, raises as `answer`; AssertionError: the agent cannot."""
        self._asked += 1
        line = json.dumps({"id": self._asked, "timeout": timeout, **request}) + "\n"
        self._line.settimeout(timeout * self._slowness)
        self._line.sendall(line.encode())
        reply = self.answer(self._asked, (timeout + GRACE) * self._slowness)
        if "error" in reply:
            raise AssertionError(f"{request}: {reply['error']}")
        return reply

    def close(self) -> None:
        """Hang up."""
        self._line.close()
