# SPDX-License-Identifier: MIT
"""`make bench-jail`: what the jail costs, in one run, as ratios of jailed to unjailed.

Start: from asking the fork server for a worker to its answer to `Init`, so both halves of the jail
are in it; the supervisor is this program, on the embedded hypervisor. Rounds alternate, and the
ratio is the median of those round by round.

Data path: one guest has two disks on equal images in the page cache, one behind a jailed worker,
one behind a worker without a jail. CPU time per request is the worker's. Then the same of
`grants: sealed` beside the jail without it.

Needs root: without it the jail has no namespaces and no user id, which is most of its cost.
"""

from __future__ import annotations

import argparse
import os
import select
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final, Literal

import zmq
from rich.console import Console
from rich.table import Table

from bench.block import MIB, POLL_US, ratio, spread
from bench.lab import DEFAULT_CONFIG, Lab
from bench.recovery import Case, Disk, Samples, run
from embedded.guest.client import GuestClient
from embedded.guest.control import socket_path
from embedded.guest.launch import create_guest
from shared.device_id import DeviceId
from shared.messages import Init, Initialised, Stop, decode_from_worker, encode
from shared.worker_spec import JailSpec, WorkerSpec
from supervisor.workers.forking import ForkServer, Launch
from supervisor.workers.spawner import ENTRY_POINT, PRELOAD
from tests.fakes.block.worker_bench import DEVID, Hypervisor
from worker.devices.block.guest.client import RemoteDisk
from worker.devices.block.guest.disk import DiskSpec
from worker.devices.block.guest.load import LoadConfig
from worker.devices.block.guest.toolstack import new_disks

START_LIMIT: Final = 2.0
"""Largest ratio of start times that is acceptable."""
CPU_LIMIT: Final = 1.05
"""Largest ratio of CPU time per request at depth 32 that is acceptable: noise is as large."""
UID: Final = 1_879_048_192 + 30_000
DEADLINE: Final = 20_000
"""Milliseconds."""

KINDS: Final[dict[Literal["vbd", "qdisk"], str]] = {"vbd": "xvda", "qdisk": "xvdb"}
"""Two types, so that they can have different jails."""
UNJAILED: Final = {"jail": {"mode": "off", "unjailed_root": True}}
ALL_PAGES: Final = LoadConfig(
    rw="read", block_size=45056, depth=64, total=640 * 45056, data_pages=704
)
"""Has the guest use as many pages as its ring can hold at once, so that grants can be sealed."""
CASES: Final = (
    Case("4 KiB random read, depth 32", "randread", 32),
    Case("4 KiB random write, depth 32", "randwrite", 32),
    Case("4 KiB random read, depth 1", "randread", 1),
)


class Starts:
    """Starts workers and takes the time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._image = directory / "disk.img"
        self._image.write_bytes(bytes(MIB))
        self._server = ForkServer(PRELOAD, directory / "forks", ("block",))
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.bind(f"ipc://{directory}/workers.sock")
        self._generation = 0

    def one(self, *, jailed: bool) -> float:
        """Start a worker, end it; seconds until it had answered `Init`."""
        spec = self._spec(jailed=jailed)
        begin = time.monotonic()
        launch = Launch(self._server, ENTRY_POINT, spec.encode(), "bench", [])
        route, _ = self._next()  # Hello
        self._send(
            route, Init, spec, 0, backend={"params": f"aio:{self._image}".encode(), "mode": b"w"}
        )
        while not isinstance(self._next()[1], Initialised):
            pass  # Jailed, a beat
        taken = time.monotonic() - begin
        self._send(route, Stop, spec, 1)
        launch.read_pid()
        select.select([launch.sentinel], [], [])
        if launch.read_status() != 0:
            raise RuntimeError("the worker did not end in order")
        launch.close()
        return taken

    def close(self) -> None:
        self._server.close()
        self._context.destroy(linger=0)

    def _spec(self, *, jailed: bool) -> WorkerSpec:
        self._generation += 1
        keep = str(self._directory)
        jail = JailSpec(mode="enforce", uid=UID, keep=keep, open_files=256, pids=64)
        return WorkerSpec(
            device=DeviceId("vbd", 1, DEVID),
            generation=self._generation,
            backend_domid=0,
            handler="block",
            options={},
            endpoint=f"{self._directory}/workers.sock",
            hypervisor="embedded",
            embedded_dir=str(self._directory),
            supervisor_pid=os.getpid(),
            jail=jail if jailed else None,
            log_level="warning",
        )

    def _next(self) -> tuple[bytes, Any]:
        if not self._socket.poll(DEADLINE):
            raise RuntimeError("the worker says nothing")
        route, data = self._socket.recv_multipart()
        return route, decode_from_worker(data)

    def _send(self, route: bytes, kind: Any, spec: WorkerSpec, seq: int, **fields: Any) -> None:
        message = kind(device=spec.device, generation=spec.generation, seq=seq, **fields)
        self._socket.send_multipart([route, encode(message)])


def measure_starts(rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each start with and without a jail, in pairs."""
    with tempfile.TemporaryDirectory(prefix="xbd") as name:
        directory = Path(name)
        hypervisor = Hypervisor(directory)
        starts = Starts(directory)
        try:
            starts.one(jailed=False)  # the fork server preloads
            pairs = []
            for number in range(rounds):
                order = (True, False) if number % 2 == 0 else (False, True)
                found = {jailed: starts.one(jailed=jailed) for jailed in order}
                pairs.append((found[True], found[False]))
        finally:
            starts.close()
            hypervisor.close()
    jailed, unjailed = zip(*pairs, strict=True)
    return list(jailed), list(unjailed)


def report_starts(rounds: int) -> bool:
    """Print a line; whether the limit is kept."""
    jailed, unjailed = measure_starts(rounds)
    found = statistics.median(a / b for a, b in zip(jailed, unjailed, strict=True))
    ours, theirs = (f"{statistics.median(one) * 1000:.1f} ms" for one in (jailed, unjailed))
    worst = max(jailed) * 1000
    sys.stdout.write(
        f"start to the answer to Init: {ours} jailed (at most {worst:.1f} ms), {theirs} unjailed:"
        f" {found:.2f}\n"
    )
    return found <= START_LIMIT


def report_data_path(
    ours: tuple[str, dict[str, Any]],
    theirs: tuple[str, dict[str, Any]],
    rounds: int,
    seconds: float,
    megabytes: int,
) -> bool:
    """Print a table of two settings of a type, each with its name; whether the limit is kept."""
    size = megabytes * MIB
    names = ours[0], theirs[0]
    types = {
        kind: {"handler": "block", "options": {"poll_us": POLL_US}, **setting}
        for kind, (_, setting) in zip(KINDS, (ours, theirs), strict=True)
    }
    with Lab({**DEFAULT_CONFIG, "types": types}) as lab:
        specs = []
        for kind, vdev in KINDS.items():
            image = lab.images / f"{vdev}.img"
            image.write_bytes(os.urandom(MIB) * megabytes)
            specs.append(DiskSpec(path=str(image), vdev=vdev, kind=kind))
        create_guest(lab.embedded_dir, "bench", new_disks(specs))
        guest = GuestClient(socket_path(lab.embedded_dir, 1))
        disks = []
        for name, spec in zip(names, specs, strict=True):
            status = lab.wait_connected(f"{spec.kind}/1/{spec.devid}")
            assert status.pid is not None
            assert bool(status.jail) == (name != "unjailed")
            if not RemoteDisk(guest, spec.vdev).io(ALL_PAGES).ok:
                raise RuntimeError(f"{name}: the first load failed")
            disks.append(Disk(name, spec.vdev, status.pid))
        sealed = names.count("sealed")
        lab.wait(
            lambda: lab.log().count("grants: sealed, 704 mapped") == sealed, 10, "sealed grants"
        )
        samples = {(case.name, disk.name): Samples() for case in CASES for disk in disks}
        for number in range(rounds):
            for case in CASES:
                for disk in disks[:: 1 if number % 2 == 0 else -1]:
                    run(guest, disk, case, size, seconds, samples[case.name, disk.name])
    return _print(names, samples)


def _print(names: tuple[str, str], samples: dict[tuple[str, str], Samples]) -> bool:
    table = Table(title=f"{names[0]} beside {names[1]}, median (range)", title_justify="left")
    table.add_column("case")
    for figure in ("IOPS", "p99 µs", "CPU ns per request"):
        for column in (*names, "ratio"):
            table.add_column(f"{figure} {column}", justify="right")
    held = True
    for case in CASES:
        ours, theirs = (samples[case.name, name] for name in names)
        held &= case.depth != 32 or ratio(ours.cpu, theirs.cpu) <= CPU_LIMIT
        cells = [case.name]
        for mine, other, unit in (
            (ours.iops, theirs.iops, 1),
            (ours.p99, theirs.p99, 1000),
            (ours.cpu, theirs.cpu, 1),
        ):
            cells += [spread(mine, unit), spread(other, unit), f"{ratio(mine, other):.3f}"]
        table.add_row(*cells)
    Console(highlight=False, width=200).print(table)
    return held


def main() -> int:
    """Run the benchmark; exit status 1 if the jail costs more than its limits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=61, help="pairs of starts")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each measurement")
    parser.add_argument("--size", type=int, default=128, help="of each image, MiB")
    args = parser.parse_args()
    if os.geteuid() != 0:
        sys.stderr.write("bench.jail: needs root\n")
        return 1
    held = report_starts(args.starts)
    length = args.rounds, args.seconds, args.size
    held &= report_data_path(("jailed", {}), ("unjailed", UNJAILED), *length)
    sealed = {"options": {"poll_us": POLL_US, "grants": "sealed"}}
    report_data_path(("sealed", sealed), ("jailed", {}), *length)  # has no limit
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
