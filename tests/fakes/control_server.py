# SPDX-License-Identifier: MIT
"""A supervisor's two sockets for the command line, in a thread that answers from a table."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import zmq

from shared import control
from shared.control import Event


def event(seq: int) -> Event:
    """An event."""
    return Event(seq=seq, time="t", kind="state", device="toy/3/51712", text=f"number {seq}")


class Supervisor:
    """ROUTER and XPUB in a thread, until closed."""

    def __init__(
        self, run_dir: Path, answers: Callable[[control.AnyRequest], control.Reply | None]
    ) -> None:
        self._answers = answers
        self._context = zmq.Context()
        self._router = self._bind(zmq.ROUTER, run_dir / control.CONTROL_SOCKET)
        self._events = self._bind(zmq.XPUB, run_dir / control.EVENTS_SOCKET)
        self._stop_here, self._stop_there = os.pipe()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _bind(self, kind: int, path: Path) -> zmq.Socket[bytes]:
        bound = self._context.socket(kind)
        bound.bind(f"ipc://{path}")
        return bound

    def _run(self) -> None:
        poller = zmq.Poller()
        for source in (self._router, self._events, self._stop_here):
            poller.register(source, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self._stop_here in ready:
                break
            if self._events in ready:
                self._events.recv()
                # 2 was told by the reply, 3 is new, 2 is late, then nothing more.
                for seq in (2, 3):
                    self._events.send_multipart([b"event", control.encode(event(seq))])
            if self._router in ready:
                peer, data = self._router.recv_multipart()
                reply = self._answers(control.decode_request(data))
                if reply is not None:
                    self._router.send_multipart([peer, control.encode(reply)])
        self._router.close(linger=1000)
        self._events.close(linger=1000)

    def close(self) -> None:
        """Stop the thread and close the sockets. Idempotent."""
        if self._thread.is_alive():
            os.write(self._stop_there, b"x")
            self._thread.join()
            os.close(self._stop_here)
            os.close(self._stop_there)
            self._context.term()
