# SPDX-License-Identifier: MIT
"""A jailed worker as the kernel sees it, and what it does where it may not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared.errors import Blame, HostError
from shared.messages import (
    Attached,
    Disconnect,
    Disconnected,
    Failed,
    FrontendChanged,
    Hello,
    Init,
    Initialise,
    Initialised,
    Jailed,
    Renew,
    Stop,
)
from shared.worker_spec import JailSpec
from tests.fakes.block.worker_bench import Bench, Worker, worker_bench
from tests.fakes.scheduler import SLICES, slice_of
from tests.root import ROOT

UID = 1_879_048_192 + 30_000
AS_ROOT = os.geteuid() == 0
NAMESPACES = ("mnt", "net", "ipc", "uts")

needs_root = pytest.mark.skipif(not AS_ROOT, reason="needs root")


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A hypervisor and a bus."""
    with worker_bench() as it:
        yield it


def jail(bench: Bench, **changes: Any) -> JailSpec:
    """The jail of a worker on the bench."""
    fields: dict[str, Any] = {
        "mode": "enforce",
        "uid": UID if AS_ROOT else 0,
        "keep": str(bench.directory),
        "open_files": 128,
        "pids": 64,
    }
    return JailSpec(**{**fields, **changes})


def enter(bench: Bench, worker: Worker) -> Jailed:
    """Bring a worker to the end of its first `init`."""
    worker.expect(Hello)
    worker.send(Init, backend=bench.backend)
    told = worker.expect(Jailed)
    worker.expect(Initialised)
    return told


def status(pid: int, thread: str) -> dict[str, str]:
    """Fields of a thread's status file."""
    text = Path(f"/proc/{pid}/task/{thread}/status").read_text()
    return {name: value.strip() for name, _, value in (x.partition(":") for x in text.split("\n"))}


@needs_root
def test_jail_of_a_serving_worker_holds_for_all_of_its_threads(bench: Bench) -> None:
    """User, capabilities, filter, namespaces, root, descriptors, environment: as the kernel says.

    I/O threads, which were started inside, included.
    """
    guest, worker = bench.guest(), bench.worker(jail=jail(bench))
    told = enter(bench, worker)
    worker.ask(Attached, Initialise, backend=bench.backend, frontend=guest.nodes, resume=False)
    guest.ring.write(8, b"inside" * 512)
    guest.ring.flush()
    assert guest.ring.read(8, 6) == b"inside" * 512
    proc = Path(f"/proc/{worker.process.pid}")

    threads = [status(worker.process.pid, one.name) for one in (proc / "task").iterdir()]
    assert len(threads) >= 4  # the ring's, libzmq's two, one of I/O for the flush
    for one in threads:
        assert one["Uid"].split() == one["Gid"].split() == [str(UID)] * 4
        assert one["Groups"] == ""
        assert [int(one[f"Cap{name}"], 16) for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")] == [
            0
        ] * 5
        assert (one["NoNewPrivs"], one["Seccomp"]) == ("1", "2")
    for name in NAMESPACES:
        assert (proc / "ns" / name).readlink() != Path(f"/proc/self/ns/{name}").readlink()
    assert [one.name for one in (proc / "root").iterdir()] == [bench.directory.parts[1]]
    mounts = [line.split() for line in (proc / "mountinfo").read_text().splitlines()]
    assert [mount[4] for mount in mounts] == ["/", str(bench.directory)]
    for mount in mounts:
        assert {"ro", "nosuid", "nodev", "noexec"} <= set(mount[5].split(","))
    assert (proc / "environ").read_bytes().strip(b"\0") == b""
    files = [one.readlink() for one in (proc / "fd").iterdir()]
    assert [file for file in files if str(file).startswith("/") and "memfd" not in str(file)] == [
        Path("/dev/null"),
        bench.image,
    ]
    assert any("system calls of block on embedded only" in step for step in told.steps)
    assert f"user and group {UID}, no other groups, no capabilities" in told.steps
    worker.ask(Disconnected, Disconnect)
    worker.send(Stop)
    assert worker.finish()[0] == 0


@pytest.mark.skipif(not SLICES, reason="this kernel has no slices to ask for")
def test_worker_that_starts_goes_after_those_that_serve(bench: Bench) -> None:
    """Serving ones have a shorter slice; what a worker does until then has what it was given."""
    worker = bench.worker(jail=jail(bench))
    worker.expect(Hello)
    usual = slice_of(worker.process.pid)
    assert usual == slice_of(0)
    worker.send(Init, backend=bench.backend)
    worker.expect(Jailed)
    assert slice_of(worker.process.pid) < usual


def test_jail_connects_anew_to_the_same_image_and_asks_for_a_successor_for_another(
    bench: Bench,
) -> None:
    """The open image is looked at again, grown; for another one the worker says Renew and ends."""
    guest, worker = bench.guest(), bench.worker(jail=jail(bench))
    enter(bench, worker)
    for sectors in (2048, 4096):
        os.truncate(bench.image, sectors * 512)
        worker.ask(Initialised, Init, backend=bench.backend)
        attached = worker.ask(
            Attached, Initialise, backend=bench.backend, frontend=guest.nodes, resume=False
        )
        assert attached.nodes["sectors"] == b"%d" % sectors
        worker.ask(Disconnected, Disconnect)

    worker.ask(Renew, Init, backend={**bench.backend, "mode": b"r"})
    status, log = worker.finish()
    assert status == 0
    assert "is not the one that is open; a successor opens it" in log


def test_jail_looks_at_nothing_of_the_guests_before_it_is_closed(bench: Bench) -> None:
    """Before the first `init` a ring is refused and a changed node of the frontend passed over."""
    guest, worker = bench.guest(), bench.worker(jail=jail(bench))
    worker.expect(Hello)
    worker.send(FrontendChanged, node="ring-ref", untrusted_value=b"x")
    failed = worker.ask(
        Failed, Initialise, backend=bench.backend, frontend=guest.nodes, resume=False
    )
    assert (failed.stage, failed.blame) == ("initialise", Blame.US)
    assert "not jailed yet" in failed.text


@needs_root
@pytest.mark.parametrize(
    ("changes", "at_init", "step"),
    [({"keep": "/nowhere"}, True, "root"), ({"cgroup": "/nowhere"}, False, "cgroup")],
)
def test_jail_step_that_fails_ends_the_worker(
    bench: Bench, changes: dict[str, str], at_init: bool, step: str
) -> None:
    """Half a jail is none: the supervisor is told which step it was, and the process ends."""
    worker = bench.worker(jail=jail(bench, **changes))
    if at_init:
        worker.expect(Hello)
        worker.send(Init, backend=bench.backend)
    failed = worker.expect(Failed)

    assert (failed.stage, failed.blame) == ("alloc", Blame.HOST)
    assert failed.text.startswith(f"jail: {step} (")
    assert worker.finish()[0] == HostError.exit_code


INSIDE = """
import sys
import worker.preload
from shared import logs
from shared.worker_spec import WorkerSpec
from worker.jail.jail import Jail

spec = WorkerSpec.decode(bytes.fromhex(sys.argv[1]))
jail = Jail(spec, spec.jail, max_grants=0, descriptors=())
log = logs.DeviceLogger(spec.device)
jail.birth()
jail.enter()
for format in ("text", "json"):
    logs.setup("info", format)
    try:
        import colorsys
    except ImportError:
        log.exception("no module")
    try:
        "".encode("cp037")
    except LookupError as error:
        log.exception("no codec")
    try:
        jail.no_such_attribute
    except AttributeError:
        log.exception("no attribute")
log.info("now a file")
open("/etc/passwd")
"""


def test_jail_python_inside_misses_modules_and_dies_of_opening_a_file(bench: Bench) -> None:
    """What Python itself would look for is missing like anything else; who opens has turned."""
    worker = bench.worker(jail=jail(bench))
    worker.process.kill()
    done = subprocess.run(
        [sys.executable, "-c", INSIDE, worker.spec.encode().hex()],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )

    assert done.returncode == -signal.SIGSYS, done.stderr
    for text in ("ModuleNotFoundError: No module", "LookupError: unknown", "no_such_attribute"):
        assert done.stderr.count(text) == 2, done.stderr
    assert "now a file" in done.stderr


def test_jail_tried_out_on_this_host_fails_nowhere() -> None:
    """`python -m worker.jail` does what this host can and says of the rest why not."""
    done = subprocess.run(
        [sys.executable, "-m", "worker.jail", "--json"], cwd=ROOT, stdout=subprocess.PIPE
    )
    outcomes = msgspec.json.decode(done.stdout)

    assert done.returncode == 0
    assert {one["outcome"] for one in outcomes} <= {"done", "left out"}
    assert outcomes[-1]["step"] == "system-calls"
    assert all(bool(one["reason"]) == (one["outcome"] == "left out") for one in outcomes)
