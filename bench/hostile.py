# SPDX-License-Identifier: MIT
"""`make bench-hostile`: what one hostile guest costs the others, and whether anything grows.

On the embedded hypervisor, beside an innocent guest under verified I/O:

- attach time of a guest's device while another guest rewrites its nodes as fast as xenstored takes
  them (XSA-349), and while it goes through the states of its device as fast (XSA-350), as a ratio
  to without, in alternating rounds of one run;
- thousands of connect/close cycles of one frontend (XSA-350) and a hundred thousand bad requests:
  descriptors, ports, mappings, watches, nodes and memory before and after, and the log's growth.

Exits with 1 if the ratio is above `FLOOR_RATIO` or something grew. What is load-proof of it is
asserted by tests/hostile.
"""

from __future__ import annotations

import argparse
import statistics
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.table import Table

from bench.flood import Cycles, Flood
from bench.held import Held, count, resident
from bench.lab import DEFAULT_CONFIG, Lab
from embedded.domain import Domain
from embedded.toolstack import backend_path, create_domain, wait_backend_state
from shared.xenbus import XenbusState
from shared.xenstore.blocking import BlockingXenstore
from worker.devices.block.guest.blkfront import BlockFrontend
from worker.devices.block.guest.disk import DiskSpec
from worker.devices.block.guest.ring import RSP_PROD
from worker.devices.block.guest.toolstack import attach_disk

DEADLINE: Final = 30.0
FLOOR_RATIO: Final = 2.0
GROWTH_MAX: Final = 4096
"""KiB by which a process may grow and still count as constant: the allocator keeps what it had."""
SIZE: Final = 1 << 20
UNKNOWN_OPERATION: Final = 255
FLOODS: Final = {"nodes": (64, ""), "states": (0, "345616")}
"""Nodes beside the state, and the states it goes through, with an offer of a ring all the time."""
CONFIG: Final = {**DEFAULT_CONFIG, "limits": {"domain_restarts": 100_000}}


class Guest(NamedTuple):
    """One guest without a disk yet."""

    domain: Domain
    xs: BlockingXenstore
    disk: BlockFrontend

    @property
    def backend(self) -> str:
        """Backend directory of its disk."""
        return backend_path(self.domain.domid, self.disk.kind, self.disk.devid)

    @property
    def device(self) -> str:
        """Name of its device."""
        return f"vbd/{self.domain.domid}/{self.disk.devid}"


class Figure(NamedTuple):
    """One line of the table."""

    what: str
    value: str
    held: bool = True


class Bench:
    """A lab and an image that every guest may have."""

    def __init__(self, lab: Lab, dom0: BlockingXenstore) -> None:
        self.lab = lab
        self.dom0 = dom0
        image = lab.images / "disk.img"
        with image.open("wb") as file:
            file.truncate(SIZE)
        self.spec = DiskSpec(path=str(image), vdev="xvda")

    @contextmanager
    def guest(self, **options: Any) -> Iterator[Guest]:
        """A guest, which dies without a word afterwards; waits until nothing of it is left."""
        directory = self.lab.embedded_dir
        with Domain.create(directory, "guest", 1024) as domain:
            create_domain(self.dom0, domain.domid, "guest", memory_kib=4096)
            with BlockingXenstore(directory / "xenstored" / "domain" / str(domain.domid)) as xs:
                guest = Guest(domain, xs, BlockFrontend(domain, xs, self.spec.devid, **options))
                yield guest
                guest.disk.release()
        self.lab.wait(lambda: self.lab.device(guest.device) is None, DEADLINE, "forgotten")

    def attach(self, guest: Guest) -> float:
        """Seconds from the first directory written to Connected on both sides."""
        began = time.monotonic()
        attach_disk(self.dom0, guest.domain.domid, self.spec)
        guest.disk.connect(DEADLINE)
        return time.monotonic() - began

    def memory(self, pid: int | None) -> int:
        """KiB resident; 0 without a process."""
        return 0 if pid is None else resident(pid)


def floods(bench: Bench, attaches: int) -> list[Figure]:
    """Attach guests without a flood and under each, in alternating rounds."""
    supervisor = bench.lab.supervisor
    assert supervisor is not None
    took: dict[str, list[float]] = {kind: [] for kind in ("nobody", *FLOODS)}
    writes, seconds = dict.fromkeys(took, 0), dict.fromkeys(took, 0.0)
    with bench.guest() as hostile:
        attach_disk(bench.dom0, hostile.domain.domid, bench.spec)
        waiting = frozenset({XenbusState.INIT_WAIT})
        assert wait_backend_state(bench.dom0, hostile.backend, waiting, DEADLINE)
        path = hostile.disk.path
        Cycles(hostile.domain, hostile.xs, path, hostile.backend, DEADLINE).run(1)
        socket = bench.lab.embedded_dir / "xenstored" / "domain" / str(hostile.domain.domid)
        before = peak = bench.memory(supervisor.pid)
        for _ in range(attaches):
            with bench.guest() as guest:
                took["nobody"].append(bench.attach(guest))
            for kind, (nodes, values) in FLOODS.items():
                began = time.monotonic()
                with Flood(socket, f"{path}/state", nodes, values) as storm, bench.guest() as guest:
                    took[kind].append(bench.attach(guest))
                    peak = max(peak, bench.memory(supervisor.pid))
                seconds[kind] += time.monotonic() - began
                writes[kind] += storm.writes
    figures = []
    for kind, times in took.items():
        middle = statistics.median(times)
        ratio = middle / statistics.median(took["nobody"])
        rate = f", {writes[kind] / seconds[kind]:.0f} writes/s" if writes[kind] else ""
        text = f"median {middle * 1000:.1f} ms, ratio {ratio:.2f}{rate}"
        figures.append(Figure(f"attach, flood: {kind}", text, ratio <= FLOOR_RATIO))
    text = f"{before} and {peak} KiB"
    return [*figures, Figure("supervisor, before and at most", text, peak - before <= GROWTH_MAX)]


@contextmanager
def constant(bench: Bench, what: str, device: str, figures: list[Figure]) -> Iterator[None]:
    """Nothing of what is done inside may stay."""
    lab = bench.lab
    status = lab.device(device)
    assert status is not None
    assert lab.supervisor is not None
    before, pids = count(lab), (lab.supervisor.pid, status.pid)
    memory, log, began = [bench.memory(pid) for pid in pids], len(lab.log()), time.monotonic()
    yield
    took = time.monotonic() - began
    grown = _beyond(lab, before)
    now = [bench.memory(pid) for pid in pids]
    after = lab.device(device)
    same = after is not None and (after.pid, after.generation) == (status.pid, status.generation)
    small = all(has - had <= GROWTH_MAX for had, has in zip(memory, now, strict=True))
    figures += [
        Figure(f"{what}: seconds", f"{took:.1f}"),
        Figure(f"{what}: more than before", "; ".join(grown) or "nothing", not grown),
        Figure(f"{what}: memory of supervisor, worker", f"{memory} -> {now} KiB", small),
        Figure(f"{what}: same worker", str(same), same),
        Figure(f"{what}: bytes of log", str(len(lab.log()) - log)),
    ]


def _beyond(lab: Lab, before: Held) -> list[str]:
    """What is there and was not before; what only passes is given time to."""
    end = time.monotonic() + DEADLINE
    while (found := count(lab).beyond(before)) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def cycles(bench: Bench, number: int) -> list[Figure]:
    """One frontend connects and closes."""
    figures: list[Figure] = []
    with bench.guest() as guest:
        attach_disk(bench.dom0, guest.domain.domid, bench.spec)
        waiting = frozenset({XenbusState.INIT_WAIT})
        assert wait_backend_state(bench.dom0, guest.backend, waiting, DEADLINE)
        toggle = Cycles(guest.domain, guest.xs, guest.disk.path, guest.backend, DEADLINE)
        toggle.run(100)
        with constant(bench, f"{number} cycles", guest.device, figures):
            toggle.run(number)
    return figures


def bad_requests(bench: Bench, number: int) -> list[Figure]:
    """One frontend sends requests that nobody understands."""
    figures: list[Figure] = []
    with bench.guest(persistent=False) as guest:
        bench.attach(guest)
        ring = guest.disk.ring
        assert ring is not None
        first = ring.index(RSP_PROD)
        request = struct.pack("<BBHxxxxQQ", UNKNOWN_OPERATION, 1, 0, 2**64 - 1, 0)
        with constant(bench, f"{number} bad requests", guest.device, figures):
            for sent in range(number):
                ring.raw_submit(request)
                while sent - (ring.index(RSP_PROD) - first) % 2**32 >= ring.slots - 1:
                    assert ring.raw_wait(DEADLINE)
                    while ring.raw_response() is not None:
                        pass
    return figures


def main() -> int:
    """Run the benchmark; exit status 1 if something was not held."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--attaches", type=int, default=15)
    parser.add_argument("--cycles", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=100_000)
    args = parser.parse_args()
    with Lab(CONFIG) as lab, lab.xenstore() as dom0:
        bench = Bench(lab, dom0)
        figures = floods(bench, args.attaches)
        figures += cycles(bench, args.cycles)
        figures += bad_requests(bench, args.requests)
    table = Table(title="one hostile guest", title_justify="left")
    for column in ("what", "measured", "held"):
        table.add_column(column)
    for figure in figures:
        table.add_row(figure.what, figure.value, str(figure.held))
    Console(highlight=False).print(table)
    return 0 if all(figure.held for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
