# SPDX-License-Identifier: MIT
"""Guests that do what they may, only without end: rewrite their nodes, connect and close.

`python -m bench.flood SOCKET PATH [--nodes N] [--values V]` writes through the domain's socket
`SOCKET`: `PATH` itself with the value that stands there, or with each character of V in turn
(states of xenbus), and N nodes beside it, over and over. It says "flooding" on standard output
after the first round and "enough" after `ENOUGH` writes, goes on until its standard input is
closed, and then prints how many writes were answered. `Flood` runs it in a process of its own.
`Cycles` is for the process that made the domain.

Like a real guest it has at most `OUTSTANDING` requests under way, and takes no processor time from
the domain that serves: it runs at low priority.
"""

from __future__ import annotations

import argparse
import os
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from embedded.domain import Domain
from shared.xenbus import XenbusState
from shared.xenstore.blocking import BlockingXenstore

OUTSTANDING: Final = 20
"""Requests a domain may have open (xenstored's default quota)."""
NICENESS: Final = 10
ENOUGH: Final = 1000
"""Writes after which nobody can say that there was no flood."""
END: Final = 30.0
"""Seconds it may take to end."""


class Flood:
    """One such guest; a context manager. `writes` is known after the end."""

    def __init__(self, socket: Path, path: str, nodes: int = 64, values: str = "") -> None:
        self.writes = 0
        self._said = b""
        options = ["--nodes", str(nodes), "--values", values]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.flood", str(socket), path, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self._stdout = self._process.stdout.fileno()

    def __enter__(self) -> Self:
        try:
            while b"flooding" not in self._said:
                self._hear()
        except BaseException:
            self._process.kill()
            self._process.communicate()
            raise
        return self

    @property
    def enough(self) -> bool:
        """Whether it has written `ENOUGH` times by now; AssertionError if it ended by itself."""
        while select.select([self._stdout], [], [], 0)[0]:
            self._hear()
        return b"enough" in self._said

    def _hear(self) -> None:
        said = os.read(self._stdout, 4096)
        assert said, f"the flood ended by itself; it said {self._said!r}"
        self._said += said

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._process as process:
            try:
                rest, _ = process.communicate(timeout=END)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        self.writes = int((self._said + rest).split()[-1])


class Cycles:
    """Connects by hand with one ring and one port, and closes, over and over, on one watch.

    The backend must be in InitWait, and is there again after each cycle. `ref` is the ring's page.
    """

    def __init__(
        self, domain: Domain, xs: BlockingXenstore, frontend: str, backend: str, timeout: float
    ) -> None:
        self._xs, self._timeout = xs, timeout
        self._frontend, self._backend = f"{frontend}/state", f"{backend}/state"
        [frame] = domain.alloc_pages(1)
        domain.page(frame)[:] = bytes(4096)
        self.ref = domain.grant(frame)
        nodes = {"ring-ref": f"{self.ref}", "event-channel": f"{domain.alloc_port()}"}
        xs.write_many({f"{frontend}/{name}": value for name, value in nodes.items()})
        xs.watch(self._backend, "cycles")

    def run(self, count: int) -> None:
        """So many cycles; AssertionError where the backend does not follow."""
        for _ in range(count):
            for ours, theirs in _CYCLE:
                self._xs.write(self._frontend, ours.to_wire())
                self._follow(theirs)

    def _follow(self, wanted: XenbusState) -> None:
        while (found := XenbusState.from_wire(self._xs.read(self._backend))) is not wanted:
            event = self._xs.wait_event(self._timeout)
            assert event, f"the backend stays {found}, wanted: {wanted}"


_CYCLE: Final = (
    # own state, what the backend answers
    (XenbusState.INITIALISED, XenbusState.CONNECTED),
    (XenbusState.CONNECTED, XenbusState.CONNECTED),
    (XenbusState.CLOSED, XenbusState.CLOSED),
    (XenbusState.INITIALISING, XenbusState.INIT_WAIT),
)


def run(socket: str, path: str, nodes: int, values: str) -> int:
    """Write until standard input is closed; how many writes were answered."""
    with BlockingXenstore(socket) as xenstore:
        same = xenstore.read(path)
        turns = [value.encode() for value in values] or [same]
        beside = [f"{path}-{number}" for number in range(nodes)]
        rounds = [
            {path: value, **dict.fromkeys(beside[at : at + OUTSTANDING - 1], same)}
            for at in range(0, max(nodes, 1), OUTSTANDING - 1)
            for value in turns
        ]
        written = told = 0
        while not select.select([sys.stdin], [], [], 0)[0]:
            for some in rounds:
                xenstore.write_many(some)
                written += len(some)
            for word in ("flooding", "enough")[told : 1 + (written >= ENOUGH)]:
                print(word, flush=True)
                told += 1
        return written


def main() -> int:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("socket")
    parser.add_argument("path")
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--values", default="")
    args = parser.parse_args()
    os.nice(NICENESS)
    print(run(args.socket, args.path, args.nodes, args.values))
    return 0


if __name__ == "__main__":
    sys.exit(main())
