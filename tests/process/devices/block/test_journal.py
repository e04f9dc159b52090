# SPDX-License-Identifier: MIT
"""The journal between real processes: SIGKILL under verified I/O, crashes, its lock, its end."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from bench.lab import Lab, is_serving
from embedded.toolstack import detach_device, request_close
from shared.errors import Blame
from shared.messages import Failed
from shared.xenbus import XenbusState
from tests.fakes.block.worker_bench import Bench, worker_bench
from tests.process.lab_world import CONFIG, DEADLINE, Guest, World, running_world
from tests.root import ROOT
from worker.devices.block.guest.load import LoadConfig, LoadResult
from worker.devices.block.guest.ring import BlockIoError

KILLS = 25
RESTART = {"initial": 0.01, "max": 0.01, "quarantine_failures": 1000}
LIMITS = {"domain_restarts": 1000}
POISON_SECTOR = 128


def direct_io() -> bool:
    """Whether the temporary directory's file system can do without its page cache."""
    with tempfile.NamedTemporaryFile() as file:
        try:
            os.close(os.open(file.name, os.O_RDWR | os.O_DIRECT))
        except OSError:
            return False
    return True


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A running xenbackd that starts a worker again as often as it takes.

    A qdisk's requests all go to I/O threads where that can be had, so they end in disorder.
    """
    types = {
        "vbd": {"handler": "block"},
        "qdisk": {"handler": "block", "options": {"direct_io": direct_io()}},
    }
    config = {**CONFIG, "restart": RESTART, "limits": LIMITS, "types": types}
    with running_world(config) as it:
        yield it


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A hypervisor and a bus."""
    with worker_bench() as it:
        yield it


class Load(threading.Thread):
    """A verified load in a thread; `wait_progress` is how the test knows that it is under way."""

    def __init__(self, guest: Guest, **options: Any) -> None:
        super().__init__(name="load", daemon=True)
        self._guest = guest
        self._config = LoadConfig(rw="randrw", verify=True, size=1 << 20, **options)
        self.result: LoadResult | None = None
        self.start()

    def run(self) -> None:
        """The thread."""
        self.result = self._guest.disk.run_load(self._config)

    def done(self) -> int:
        """I/Os that were answered."""
        ring = self._guest.disk.ring
        progress = None if ring is None else ring.progress()
        return 0 if progress is None else progress.reads + progress.writes

    def wait_progress(self, count: int) -> None:
        """Wait until so many more are answered."""
        wanted, end = self.done() + count, time.monotonic() + DEADLINE
        while self.done() < wanted:
            assert time.monotonic() < end, "the load stands still"
            select.select([], [], [], 0.0005)

    def end(self) -> LoadResult:
        """Stop it and take what came of it."""
        ring = self._guest.disk.ring
        assert ring is not None
        ring.stop()
        self.join(DEADLINE)
        assert self.result is not None
        ring.resume()
        return self.result


def serving_after(world: World, guest: Guest, last: int | None) -> int:
    """Process of the worker that serves now, another one than the last."""
    status = world.lab.wait_device(
        guest.device, lambda device: is_serving(device) and device.pid != last
    )
    assert status.pid is not None
    return status.pid


@pytest.mark.parametrize(
    ("kind", "order", "persistent"),
    [("vbd", 0, True), ("vbd", 4, False), ("qdisk", 0, True)],
    ids=["persistent", "copy", "threads"],
)
def test_journal_worker_killed_under_io_again_and_again_loses_nothing(
    world: World, kind: Literal["vbd", "qdisk"], order: int, persistent: bool
) -> None:
    """SIGKILL with 32 requests in flight, many times: no error, no wrong byte, one ring."""
    with world.guest(kind=kind, max_ring_order=order, persistent=persistent) as guest:
        guest.disk.connect(DEADLINE)
        load = Load(guest, depth=32, runtime=600)
        pid: int | None = None
        for _ in range(KILLS):
            pid = serving_after(world, guest, pid)
            load.wait_progress(50)
            os.kill(pid, signal.SIGKILL)
        load.wait_progress(1000)
        result = load.end()

        assert (result.end, result.errors, result.mismatches) == ("stopped", 0, 0)
        final = world.lab.wait_connected(guest.device)
        assert final.generation == KILLS + 1
        assert guest.disk.run_load(LoadConfig(rw="read", verify=True, size=1 << 20)).ok


def test_journal_lives_and_dies_with_its_device(world: World) -> None:
    """Only root can read it; it is there while the device is, and not when it was unplugged."""
    with world.guest() as guest:
        guest.disk.connect(DEADLINE)
        path = world.lab.directory / "journal" / guest.device.replace("/", "-")
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700

        request_close(guest.dom0, guest.backend)
        guest.wait_backend(XenbusState.CLOSING)
        guest.disk.advance()
        assert detach_device(
            guest.dom0, guest.domain.domid, guest.disk.kind, guest.disk.devid, DEADLINE
        )
        world.lab.wait(lambda: not path.exists(), DEADLINE, "the journal to go")


def test_journal_left_behind_is_swept_by_the_next_serve() -> None:
    """A device that went while nobody served leaves its file; one that is there keeps it."""
    with Lab(CONFIG, own_hypervisor=True) as lab:
        image = lab.images / "disk.img"
        image.write_bytes(bytes(1 << 20))
        lab.must("guest", "create", "web", "--disk", str(image))
        device = lab.status().devices[0].device
        lab.wait_connected(device)
        lab.stop_supervisor()
        kept = lab.directory / "journal" / device.replace("/", "-")
        left = kept.with_name("vbd-31999-51712")
        left.touch()
        inode = kept.stat().st_ino

        lab.start_supervisor()
        lab.wait_connected(device)
        assert kept.stat().st_ino == inode
        lab.wait(lambda: not left.exists(), DEADLINE, "the sweep")


def test_journal_second_worker_of_a_device_ends_before_it_touches_anything(bench: Bench) -> None:
    """The file is the lock: the device has one worker, whoever starts another."""
    journal = str(bench.directory / "journal")
    guest, first = bench.guest(), bench.worker(journal=journal)
    first.serve(bench.backend, guest)
    second = bench.worker(journal=journal)

    failed = second.expect(Failed)
    assert (failed.stage, failed.blame) == ("alloc", Blame.HOST)
    assert "another worker" in failed.text
    assert second.finish()[0] == 75
    assert guest.ring.read(0, 8) == bench.image.read_bytes()[:4096]


def poison_library(directory: Path) -> Path:
    """Compile the library that makes a sector of the image deadly."""
    source = ROOT / "tests/fakes/block/native" / "poison.c"
    target = directory / "poison.so"
    options = ["-shared", "-fPIC", "-O1", "-Wno-null-dereference"]
    subprocess.run(["gcc", *options, "-o", str(target), str(source), "-ldl"], check=True)
    return target


def test_journal_poison_request_is_answered_with_an_error_and_the_ring_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that makes the worker crash twice is given up by the third, which serves on."""
    monkeypatch.setenv("LD_PRELOAD", str(poison_library(bench.directory)))
    monkeypatch.setenv("POISON_OFFSET", str(POISON_SECTOR * 512))
    monkeypatch.setenv("PYTHONFAULTHANDLER", "")
    journal = str(bench.directory / "journal")
    guest = bench.guest()
    seen: list[BaseException] = []

    def read() -> None:
        try:
            # Several requests: the deadly one, and others that are in hand with it.
            guest.ring.read(0, 512)
        except BlockIoError as error:
            seen.append(error)

    first = bench.worker(journal=journal)
    first.serve(bench.backend, guest)
    reader = threading.Thread(target=read)
    reader.start()
    assert first.finish()[0] == -signal.SIGSEGV
    second = bench.worker(journal=journal)
    second.serve(bench.backend, guest, resume=True)
    assert second.finish()[0] == -signal.SIGSEGV
    third = bench.worker(journal=journal)
    third.serve(bench.backend, guest, resume=True)
    reader.join(DEADLINE)

    assert not reader.is_alive()
    assert len(seen) == 1
    assert guest.ring.read(0, 8) == bench.image.read_bytes()[:4096]
    while (beat := third.wait_for_beat()).counters["poisoned"] == 0:
        pass
    assert beat.counters["poisoned"] == 1
    _, log = third.finish(kill=True)
    assert "in hand at death after death of the worker" in log
