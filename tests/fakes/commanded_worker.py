# SPDX-License-Identifier: MIT
"""A worker of the type `toy` whose commands say how it answers them.

`wind` is never answered. `play note=…`: never, twice, garbage, flood, dies; otherwise as it should
be.
"""

from __future__ import annotations

import sys

import msgspec

from shared import messages as m
from shared.worker_spec import WorkerSpec
from tests.fakes.toy.about import PlayArguments, PlayReply
from tests.fakes.trivial_worker import Worker


class CommandedWorker(Worker):
    """Beats and serves as it should, whatever its answers are."""

    def obey(self, order: m.Command) -> None:
        """Answer one command."""
        if order.name == "wind":
            return
        played = msgspec.msgpack.decode(order.arguments, type=PlayArguments)
        reply = msgspec.msgpack.encode(PlayReply(played.rounds, [played.game]))
        match played.note:
            case "garbage":
                reply = b"\xc1\x00garbage"
            case "never":
                return
            case "twice":
                self.say(m.CommandAnswer, number=order.number, reply=reply)
            case "flood":
                while True:
                    self.say(m.CommandAnswer, number=order.number, reply=reply)
            case "dies":
                sys.exit(70)
        self.say(m.CommandAnswer, number=order.number, reply=reply)

    def take(self, order: m.ToWorker) -> None:
        if isinstance(order, m.Command):
            self.obey(order)
        else:
            super().take(order)


def run(spec: bytes) -> None:
    """Entry point."""
    worker = CommandedWorker(WorkerSpec.decode(spec))
    worker.say(m.Hello)
    worker.serve()
