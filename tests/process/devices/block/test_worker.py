# SPDX-License-Identifier: MIT
"""A block worker from its birth to its end: a real process, a real ring, a test as supervisor."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.errors import Blame
from shared.messages import (
    Adopt,
    Attached,
    Connected,
    Disconnect,
    Disconnected,
    Failed,
    Hello,
    Init,
    Initialise,
    Initialised,
    Present,
    SetLogLevel,
    Stop,
)
from tests.fakes.block.worker_bench import Bench, Guest, Worker, worker_bench
from tests.fakes.waiting import wait_until


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A hypervisor and a bus."""
    with worker_bench() as it:
        yield it


def test_worker_block_serves_a_guest_and_stops_with_status_0(bench: Bench) -> None:
    """Hello, init, initialise, I/O both ways, disconnect, stop: all answered in order."""
    guest, worker = bench.guest(), bench.worker()
    worker.expect(Hello)
    features = worker.ask(Initialised, Init, backend=bench.backend).nodes
    assert features["feature-flush-cache"] == b"1"
    assert features["max-ring-page-order"] == b"4"
    nodes = worker.ask(
        Attached, Initialise, backend=bench.backend, frontend=guest.nodes, resume=False
    ).nodes
    assert nodes["sectors"] == b"2048"
    assert nodes["sector-size"] == b"512"
    worker.send(Connected)

    assert guest.ring.read(8, 64) == bench.image.read_bytes()[4096 : 4096 + 32768]
    guest.ring.write(100, b"written" * 512)
    guest.ring.flush()
    assert bench.image.read_bytes()[51200 : 51200 + 3584] == b"written" * 512

    worker.ask(Disconnected, Disconnect)
    worker.send(Stop)
    assert worker.finish()[0] == 0


@pytest.mark.parametrize("order", [0, 4])
def test_worker_block_killed_is_replaced_on_the_live_ring(bench: Bench, order: int) -> None:
    """A successor takes the ring up where its killed predecessor left it."""
    guest, first = bench.guest(order=order), bench.worker()
    first.serve(bench.backend, guest)
    guest.ring.write(0, b"a" * 4096)
    first.finish(kill=True)

    second = bench.worker()
    second.serve(bench.backend, guest, resume=True)
    assert guest.ring.read(0, 8) == b"a" * 4096
    guest.ring.write(0, b"b" * 4096)
    assert bench.image.read_bytes()[:4096] == b"b" * 4096


def test_worker_block_beats_carry_the_counters(bench: Bench) -> None:
    """Beats come from the loop that serves the ring, with what it did."""
    guest, worker = bench.guest(), bench.worker()
    worker.serve(bench.backend, guest)
    guest.ring.read(0, 8)

    while (beat := worker.wait_for_beat()).counters["rd_req"] == 0:
        pass
    assert beat.counters["rd_sect"] == 8


def test_worker_block_ring_fault_is_reported_and_the_ring_given_back(bench: Bench) -> None:
    """A guest that breaks its ring gets Failed(serve, guest); the worker lives and obeys."""
    guest, worker = bench.guest(), bench.worker()
    worker.serve(bench.backend, guest)
    guest.ring.poke(0, 1000)
    guest.ring.notify()

    failed = worker.expect(Failed)
    assert (failed.stage, failed.blame) == ("serve", Blame.GUEST)
    assert "req_prod 1000 makes no sense" in failed.text
    assert guest.domain.end_access(int(guest.nodes["ring-ref"]))
    worker.ask(Disconnected, Disconnect)


FRONTEND_FAULTS: dict[str, list[bytes | None]] = {
    "ring-ref": [None, b"", b"abc", b"-1", b"0", b"4294967296", b"1000", b"4\x00junk"],
    "event-channel": [None, b"", b"x", b"-1", b"0", b"99999999999999999999", b"1000"],
    "protocol": [b"", b"x86_128-abi", b"\xff" * 2000],
    "ring-page-order": [b"5", b"-1", b"", b"99999999999999999999999"],
    "feature-persistent": [b"2", b""],
}


def test_worker_block_frontend_nodes_bad_are_named_and_harmless(bench: Bench) -> None:
    """Every bad node is a fault of the guest that names it; the next try works (S13)."""
    guest, worker = bench.guest(), bench.worker()
    worker.expect(Hello)
    worker.ask(Initialised, Init, backend=bench.backend)
    for node, values in FRONTEND_FAULTS.items():
        for value in values:
            frontend = {**guest.nodes, node: value}
            if value is None:
                del frontend[node]
            failed = worker.ask(
                Failed, Initialise, backend=bench.backend, frontend=frontend, resume=False
            )
            assert (failed.stage, failed.blame) == ("initialise", Blame.GUEST), (node, value)
            if value != b"1000":  # that is a number; what is wrong the hypervisor says
                assert f"frontend node: {node}:" in failed.text

    worker.ask(Attached, Initialise, backend=bench.backend, frontend=guest.nodes, resume=False)
    assert len(guest.ring.read(0, 8)) == 4096


def test_worker_block_init_without_an_image_is_a_config_error(bench: Bench) -> None:
    """A missing image is the operator's; once it is there the same worker opens it."""
    worker = bench.worker()
    worker.expect(Hello)
    missing = {**bench.backend, "params": b"raw:/nowhere/disk.img"}

    failed = worker.ask(Failed, Init, backend=missing)
    assert (failed.stage, failed.blame) == ("init", Blame.OPERATOR)
    assert failed.text == "image: /nowhere/disk.img: No such file or directory"
    worker.ask(Initialised, Init, backend=bench.backend)


def test_s06_worker_without_hypervisor_says_which_handle_is_missing(bench: Bench) -> None:
    """A handle that cannot be opened is told by Failed(alloc) and the exit status 75."""
    worker = bench.worker(embedded_dir="/nowhere")

    failed = worker.expect(Failed)
    assert (failed.stage, failed.blame) == ("alloc", Blame.HOST)
    code, log = worker.finish()
    assert code == 75
    assert "vbd/1/51712: worker ends: open handle: /nowhere" in log


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"handler": "nonsense"}, "nonsense"), ({"options": {"engine": "warp"}}, "engine")],
)
def test_worker_configuration_wrong_ends_with_status_78(
    bench: Bench, changes: dict[str, Any], text: str
) -> None:
    """What only the operator can put right has the exit status of a ConfigError."""
    worker = bench.worker(**changes)

    failed = worker.expect(Failed)
    assert (failed.stage, failed.blame) == ("alloc", Blame.OPERATOR)
    assert text in failed.text
    assert worker.finish()[0] == 78


def test_worker_supervisor_dead_finishes_and_ends(bench: Bench) -> None:
    """Without a supervisor the worker gives everything back and ends with status 0."""
    supervisor = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        guest, worker = bench.guest(), bench.worker(supervisor_pid=supervisor.pid)
        worker.serve(bench.backend, guest)
    finally:
        supervisor.kill()
        supervisor.communicate()

    code, log = worker.finish()
    assert code == 0
    assert "supervisor: gone" in log
    assert guest.domain.end_access(int(guest.nodes["ring-ref"]))


@pytest.fixture
def former() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is a supervisor as far as a worker can tell."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def end(process: subprocess.Popen[bytes]) -> None:
    """As a crash would."""
    process.kill()
    process.wait()


def watches_a_process(pid: int) -> bool:
    """Whether a process has a descriptor of another one."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since the listing
            if "pidfd" in str(entry.readlink()):
                return True
    return False


def orphan(bench: Bench, former: subprocess.Popen[bytes], grace: float) -> tuple[Guest, Worker]:
    """A guest whose worker's supervisor has died."""
    guest, worker = bench.guest(), bench.worker(supervisor_pid=former.pid, orphan_grace=grace)
    worker.serve(bench.backend, guest)
    end(former)
    return guest, worker


def test_worker_orphan_serves_on_and_says_what_it_is_doing(
    bench: Bench, former: subprocess.Popen[bytes]
) -> None:
    """Without a supervisor I/O goes on; the next one is told phase and nodes, and obeyed."""
    guest, worker = orphan(bench, former, grace=60)
    data = os.urandom(4096)
    guest.ring.write(0, data)
    assert guest.ring.read(0, 8) == data

    present = worker.ask(Present, Adopt, supervisor_pid=os.getpid())

    assert (present.phase, present.seq, present.greeted, present.text) == ("serving", 0, False, "")
    assert present.nodes["sectors"] == b"2048"
    assert worker.ask(Disconnected, Disconnect).seq > 0
    worker.send(Stop)
    assert worker.finish()[0] == 0


def test_worker_orphan_that_nobody_adopts_ends_in_order(
    bench: Bench, former: subprocess.Popen[bytes]
) -> None:
    """After `orphan_grace` it gives everything back and ends with status 0."""
    guest, worker = orphan(bench, former, grace=0.3)

    code, log = worker.finish()

    assert code == 0
    assert "serving on for up to 0.3 s" in log
    assert guest.domain.end_access(int(guest.nodes["ring-ref"]))


def test_worker_orphan_told_of_a_dead_supervisor_stays_an_orphan(
    bench: Bench, former: subprocess.Popen[bytes]
) -> None:
    """One that died between its order and now: no answer, and the grace runs on."""
    _, worker = orphan(bench, former, grace=1)
    worker.send(Adopt, supervisor_pid=former.pid)

    assert worker.finish()[0] == 0


def test_worker_orphan_keeps_a_failure_until_somebody_hears_it(
    bench: Bench, former: subprocess.Popen[bytes]
) -> None:
    """The guest breaks its ring while there is no supervisor: told by `Present`."""
    guest, worker = orphan(bench, former, grace=60)
    wait_until(lambda: not watches_a_process(worker.process.pid), "the worker to notice")
    guest.ring.poke(0, 1000)
    guest.ring.notify()
    while "in_flight" in worker.wait_for_beat().counters:
        pass  # the counters are gone with the ring

    present = worker.ask(Present, Adopt, supervisor_pid=os.getpid())

    assert (present.phase, present.stage, present.blame) == ("idle", "serve", Blame.GUEST)
    assert "makes no sense" in present.text


def test_s25_worker_log_level_changes_at_run_time(bench: Bench) -> None:
    """SetLogLevel makes this device's debug lines appear, each with the device's name."""
    worker = bench.worker()
    worker.expect(Hello)
    worker.send(SetLogLevel, level="debug")
    worker.ask(Disconnected, Disconnect)
    worker.send(Stop)

    _, log = worker.finish()
    assert "DEBUG vbd/1/51712: order: Disconnect" in log
    assert "order: SetLogLevel" not in log


def test_s15_worker_block_disconnected_leaves_nothing_behind(bench: Bench) -> None:
    """Any number of connections, each disconnected twice, leave no descriptor open."""
    guest, worker = bench.guest(), bench.worker()
    worker.expect(Hello)
    descriptors = Path(f"/proc/{worker.process.pid}/fd")
    counts = set()
    for _ in range(40):
        worker.ask(Initialised, Init, backend=bench.backend)
        worker.ask(Attached, Initialise, backend=bench.backend, frontend=guest.nodes, resume=True)
        guest.ring.read(0, 8)
        worker.ask(Disconnected, Disconnect)
        worker.ask(Disconnected, Disconnect)
        counts.add(len(list(descriptors.iterdir())))

    assert len(counts) == 1
