# SPDX-License-Identifier: MIT
"""A worker without a device: answers every order, or misbehaves as its options say.

`options = {"mode": …}`: normal, mute (never says Hello), exit:N, garbage, gap, huge, flood,
modules, present, publish.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import zmq

from shared import messages as m
from shared.worker_spec import WorkerSpec


class Worker:
    """One connection to the supervisor."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.seq = 0
        self.phase = "idle"
        self.socket = zmq.Context().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 1000)
        self.socket.connect(f"ipc://{spec.endpoint}")

    def say(self, kind: Any, **fields: Any) -> None:
        spec = self.spec
        message = kind(device=spec.device, generation=spec.generation, seq=self.seq, **fields)
        self.socket.send(m.encode(message))
        self.seq += 1

    def misbehave(self, mode: str) -> None:
        if mode == "garbage":
            self.socket.send(b"\xc1\x00garbage")
        elif mode == "gap":
            self.seq += 1
            self.say(m.Beat, counters={})
        elif mode == "huge":
            self.socket.send(b"x" * 5000)
            self.say(m.Beat, counters={})
        elif mode == "flood":
            while True:
                self.say(m.Beat, counters={})
        elif mode == "modules":
            loaded = sum(1 for name in sys.modules if name.split(".")[0] == "supervisor")
            secrets = sum(1 for name in os.environ if name.startswith("XBD_SECRET"))
            self.say(m.Beat, counters={"supervisor": loaded, "secrets": secrets})
        elif mode == "present":
            self.say(m.Present, phase="serving", greeted=True, nodes={})
        elif mode == "publish":
            self.say(m.Publish, nodes={"state": b"6"})

    def serve(self) -> None:
        """Take orders, and beat where there are none."""
        poller = zmq.Poller()
        poller.register(self.socket, zmq.POLLIN)
        parent = os.pidfd_open(self.spec.supervisor_pid)
        if not self.spec.orphan_grace:
            poller.register(parent, zmq.POLLIN)
        while True:
            ready = dict(poller.poll(round(self.spec.beat * 1000)))
            if parent in ready:
                sys.exit(0)
            if ready:
                self.take(m.decode_to_worker(self.socket.recv()))
            else:
                self.say(m.Beat, counters={})

    def take(self, order: m.ToWorker) -> None:
        """Carry out one order."""
        match order:
            case m.Adopt():
                self.seq = 0
                nodes = {"feature-x": b"1"}
                self.say(m.Present, phase=self.phase, greeted=False, nodes=nodes)
            case m.Init():
                self.phase = "ready"
                self.say(m.Initialised, nodes={"feature-x": b"1"})
            case m.Initialise():
                self.phase = "serving"
                self.say(m.Attached, nodes={"max-things": b"8"})
            case m.Disconnect():
                self.phase = "idle"
                self.say(m.Disconnected)
            case m.Stop():
                sys.exit(0)


def run(spec: bytes) -> None:
    """Entry point."""
    decoded = WorkerSpec.decode(spec)
    mode = str(decoded.options.get("mode", "normal"))
    if mode.startswith("exit:"):
        sys.exit(int(mode[5:]))
    worker = Worker(decoded)
    if mode == "mute":
        zmq.Poller().poll()
    worker.say(m.Hello)
    worker.misbehave(mode)
    worker.serve()
