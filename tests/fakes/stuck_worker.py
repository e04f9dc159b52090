# SPDX-License-Identifier: MIT
"""A worker that gets stuck, or eats memory, when its frontend writes the node `deed`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from shared import messages as m
from shared.worker_spec import WorkerSpec
from tests.fakes.trivial_worker import Worker


def loop_in_c() -> None:
    """Search for longer than anybody waits, all of it in the C code of `re`."""
    re.match(r"(a+)+$", "a" * 100 + "b")


def loop_in_python() -> None:
    """Never come back, in a function whose name the trace must show."""
    while True:
        pass


def eat_memory() -> None:
    """Touch a page after the other until there are no more."""
    eaten = []
    while True:
        eaten.append(b"x" * (1 << 20))


DEEDS: Final[dict[bytes, Callable[[], None]]] = {
    b"loop_in_c": loop_in_c,
    b"loop_in_python": loop_in_python,
    b"eat_memory": eat_memory,
}


class StuckWorker(Worker):
    """Beats and answers as it should until the deed."""

    def take(self, order: m.ToWorker) -> None:
        match order:
            case m.FrontendChanged(node="deed", untrusted_value=bytes(deed)):
                DEEDS[deed]()
            case _:
                super().take(order)


def run(spec: bytes) -> None:
    """Entry point."""
    worker = StuckWorker(WorkerSpec.decode(spec))
    worker.say(m.Hello)
    worker.serve()
