# SPDX-License-Identifier: MIT
"""The whole supervisor in a process of its own, with a real xenstored and real workers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shared import control as c
from shared.embedded.xenstored.launch import start_xenstored
from shared.embedded.xenstored.requests import Client as XenstoredClient
from shared.xenstore.blocking import BlockingXenstore
from shared.xenstore.wire import Op, Packet
from supervisor.cli.client import Client
from tests.fakes.waiting import DEADLINE, wait_until
from tests.unit.xenstore_fake import FakeXenstored, fake_xenstored

ROOT = Path(__file__).parents[2]

PROGRAM = """
import asyncio, sys
from pathlib import Path
from config.loader import load
from shared import logs
from shared.errors import BlamedError
from supervisor.daemon import Supervisor

async def bug():
    raise KeyError("nobody expected it")

async def main(path):
    supervisor = Supervisor(load(path), path, entry_point="tests.fakes.trivial_worker:run",
                            preload=("tests.fakes.trivial_worker",))
    if sys.argv[2:] == ["bug"]:
        supervisor._spawn(bug())
    await supervisor.run()

logs.setup("debug")
try:
    asyncio.run(main(Path(sys.argv[1])))
except BlamedError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""

CONFIG = """
runtime_dir: {directory}
hypervisor: embedded
timeouts: {{drain: 5, hello: 5}}
types:
  vbd: {{handler: block}}
"""


class Setup:
    """A directory with xenstored, configuration and supervisors."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="xbd"))
        self.config = self.directory / "c.yaml"
        self.config.write_text(CONFIG.format(directory=self.directory))
        self.processes: list[subprocess.Popen[bytes]] = []
        self.log = self.directory / "log"

    def xenstored(self) -> subprocess.Popen[bytes]:
        process = start_xenstored(self.directory / "embedded" / "xenstored")
        self.processes.append(process)
        return process

    def store(self) -> BlockingXenstore:
        return BlockingXenstore(self.directory / "embedded" / "xenstored" / "socket")

    def supervisor(self, *arguments: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(self.config), *arguments],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def plug(self, domid: int, devid: int, state: int = 1) -> None:
        back, front = paths(domid, devid)
        with self.store() as store:
            store.introduce(domid)

            def body(tx: int) -> None:
                store.write(f"{front}/state", b"3" if state == 1 else b"4", tx)
                store.write(f"{back}/frontend", front, tx)
                store.write(f"{back}/online", b"1", tx)
                store.write(f"{back}/state", b"%d" % state, tx)

            store.transact(body)

    def state(self, domid: int, devid: int) -> bytes | None:
        with self.store() as store:
            return store.read_or_none(f"{paths(domid, devid)[0]}/state")

    def status(self) -> c.StatusReply:
        with Client(self.directory) as client:
            return client.ask(c.Status(), c.StatusReply)

    def device(self, name: str) -> c.DeviceStatus | None:
        return next((d for d in self.status().devices if d.device == name), None)

    def wait_phase(self, name: str, phase: str, generation: int = 1) -> c.DeviceStatus:
        found: list[c.DeviceStatus] = []

        def there() -> bool:
            with contextlib.suppress(Exception):
                found[:] = [d for d in self.status().devices if d.device == name]
            return bool(found) and found[0].phase == phase and found[0].generation >= generation

        wait_until(there, f"{name} {phase}: {found}\n{self.log.read_text()[-3000:]}")
        return found[0]

    def close(self) -> None:
        for process in reversed(self.processes):
            if process.poll() is None:
                process.kill()
            process.wait()
        for path in (self.directory / "workers").glob("*[0-9]"):
            if pid := json.loads(path.read_bytes())["pid"]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)


def paths(domid: int, devid: int) -> tuple[str, str]:
    """Backend and frontend directory."""
    back = f"/local/domain/0/backend/vbd/{domid}/{devid}"
    return back, f"/local/domain/{domid}/device/vbd/{devid}"


@pytest.fixture
def setup() -> Iterator[Setup]:
    made = Setup()
    try:
        yield made
    finally:
        made.close()


def test_s23_xenstored_absent_is_a_clear_failure_and_nothing_is_left(setup: Setup) -> None:
    """Without xenstored `serve` ends at once, says so, and leaves no socket or process."""
    (setup.directory / "embedded" / "xenstored").mkdir(parents=True)
    process = setup.supervisor()
    assert process.wait(DEADLINE) == 75
    assert "xenstored/socket" in setup.log.read_text()
    assert not list(setup.directory.glob("*.sock"))


class HangsUp:
    """As an answer of `FakeXenstored`: a request about devices ends the connection, some times."""

    def __init__(self, server: FakeXenstored, op: Op, times: float) -> None:
        self._server = server
        self._op = op
        self.left = times

    def __call__(self, packet: Packet) -> bytes | None:
        of_devices = packet.op == Op.IS_DOMAIN_INTRODUCED or b"/backend/" in packet.payload
        if packet.op != self._op or not of_devices or not self.left:
            return None
        self.left -= 1
        for connection in list(self._server.connections):
            connection.transport.abort()
        return b""


@contextlib.asynccontextmanager
async def xenstored_that_hangs_up(setup: Setup, op: Op, times: float) -> AsyncIterator[HangsUp]:
    """A device, and a xenstored in this event loop where `setup` looks for it."""
    back, front = paths(3, 1)
    async with fake_xenstored() as server:
        link = setup.directory / "embedded" / "xenstored" / "socket"
        link.parent.mkdir(parents=True)
        link.symlink_to(server.path)
        server.requests.handle(XenstoredClient(0), Op.INTRODUCE, 0, b"3\x000\x000\0")
        for path, value in {
            f"{front}/state": b"3",
            f"{back}/frontend": front.encode(),
            f"{back}/online": b"1",
            f"{back}/state": b"1",
        }.items():
            server.write(path, value)
        server.answer = hangs_up = HangsUp(server, op, times)
        yield hangs_up


@pytest.mark.parametrize("op", [Op.WATCH, Op.DIRECTORY, Op.IS_DOMAIN_INTRODUCED, Op.READ])
def test_daemon_xenstored_lost_while_it_starts_goes_on_when_it_is_back(
    setup: Setup, op: Op
) -> None:
    """Whatever request of the start it is: the start goes on from there, in the same process."""

    async def scenario() -> None:
        async with xenstored_that_hangs_up(setup, op, 2) as hangs_up:
            process = setup.supervisor()
            await asyncio.to_thread(setup.wait_phase, "vbd/3/1", "serving")
            assert not hangs_up.left
            assert setup.status().xenstore == "connected"
            process.terminate()
            assert await asyncio.to_thread(process.wait, DEADLINE) == 0

    asyncio.run(scenario())


def test_daemon_told_to_end_while_its_start_waits_for_xenstored_ends(setup: Setup) -> None:
    """SIGTERM is obeyed although the start never comes to its end."""

    async def scenario() -> None:
        async with xenstored_that_hangs_up(setup, Op.DIRECTORY, math.inf):
            process = setup.supervisor()

            def waits() -> bool:
                return "going on when xenstored is back" in setup.log.read_text()

            await asyncio.to_thread(wait_until, waits, "the loss")
            process.terminate()
            assert await asyncio.to_thread(process.wait, DEADLINE) == 0

    asyncio.run(scenario())


def test_daemon_bug_is_no_success(setup: Setup) -> None:
    """A task of its own that fails ends it in order, and its exit status has it started again."""
    setup.xenstored()
    assert setup.supervisor("bug").wait(DEADLINE) == 70
    assert "nobody expected it" in setup.log.read_text()
    assert not list(setup.directory.glob("*.sock"))


def test_daemon_second_instance_is_refused(setup: Setup) -> None:
    """Two supervisors in one runtime directory: the second one says so and ends."""
    setup.xenstored()
    setup.supervisor()
    wait_until(lambda: (setup.directory / c.EVENTS_SOCKET).exists(), "start")
    assert setup.supervisor().wait(DEADLINE) == 75
    assert "another xenbackd serves" in setup.log.read_text()
    assert setup.status().devices == []


def test_daemon_killed_worker_is_replaced_and_the_other_not_touched(setup: Setup) -> None:
    """SIGKILL of one worker: a successor serves, the neighbour's worker is the same process."""
    setup.xenstored()
    setup.plug(3, 1)
    setup.plug(4, 1)
    setup.supervisor()
    first = setup.wait_phase("vbd/3/1", "serving")
    other = setup.wait_phase("vbd/4/1", "serving")
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    second = setup.wait_phase("vbd/3/1", "serving", generation=2)
    assert second.pid != first.pid
    after = setup.device("vbd/4/1")
    assert after is not None
    assert after.pid == other.pid
    assert setup.state(3, 1) == b"4"


def test_daemon_stop_leaves_states_and_the_next_one_resumes(setup: Setup) -> None:
    """SIGTERM ends all workers, xenstore stays as it is; the next serve takes the devices up."""
    setup.xenstored()
    setup.plug(3, 1)
    process = setup.supervisor()
    before = setup.wait_phase("vbd/3/1", "serving")
    wait_until(lambda: setup.state(3, 1) == b"4", "Connected")
    process.terminate()
    assert process.wait(DEADLINE) == 0
    assert before.pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(before.pid, 0)
    assert setup.state(3, 1) == b"4"
    assert not list(setup.directory.glob("*.sock"))
    setup.supervisor()
    setup.wait_phase("vbd/3/1", "serving")
    assert setup.state(3, 1) == b"4"


def test_daemon_silent_worker_of_a_killed_supervisor_is_killed_before_its_successor(
    setup: Setup,
) -> None:
    """A stopped worker does not come back: it is dead before another one serves its device."""
    text = setup.config.read_text().replace("hello: 5", "hello: 1, beat: 0.1, beat_dead: 3")
    setup.config.write_text(text)
    setup.xenstored()
    setup.plug(3, 1)
    process = setup.supervisor()
    worker = setup.wait_phase("vbd/3/1", "serving").pid
    assert worker is not None
    os.kill(worker, signal.SIGSTOP)
    process.kill()
    process.wait()
    setup.supervisor()
    assert setup.wait_phase("vbd/3/1", "serving", generation=2).pid != worker
    assert "did not come back" in setup.log.read_text()


def test_daemon_worker_without_a_file_is_found_by_its_lock(setup: Setup) -> None:
    """The file is lost: the worker is found by the kernel's word, killed, and then succeeded."""
    setup.xenstored()
    setup.plug(3, 1)
    process = setup.supervisor()
    worker = setup.wait_phase("vbd/3/1", "serving").pid
    assert worker is not None
    process.kill()
    process.wait()
    (setup.directory / "workers" / "vbd-3-1").unlink()
    setup.supervisor()
    assert setup.wait_phase("vbd/3/1", "serving").pid != worker
    assert f"process {worker} serves it and nobody knows of it" in setup.log.read_text()


def test_daemon_xenstored_gone_and_back_serves_on_and_scans_again(setup: Setup) -> None:
    """xenstored dies: workers live on; back again: watches, new devices and status are right."""
    server = setup.xenstored()
    setup.plug(3, 1)
    setup.supervisor()
    pid = setup.wait_phase("vbd/3/1", "serving").pid
    server.kill()
    server.wait()
    wait_until(lambda: setup.status().xenstore != "connected", "loss is seen")
    setup.xenstored()
    setup.plug(3, 1, state=4)
    setup.plug(5, 1)
    setup.wait_phase("vbd/5/1", "serving")
    assert setup.status().xenstore == "connected"
    after = setup.device("vbd/3/1")
    assert after is not None
    assert after.pid == pid
    setup.plug(6, 1)
    setup.wait_phase("vbd/6/1", "serving")


def test_daemon_reload_switches_types_and_refuses_bad_files(setup: Setup) -> None:
    """A broken file changes nothing; a type that is switched off closes; others stay."""
    setup.xenstored()
    setup.plug(3, 1)
    setup.supervisor()
    setup.wait_phase("vbd/3/1", "serving")
    good = setup.config.read_text()
    with Client(setup.directory) as client:
        setup.config.write_text(good + "  qdisk: {handler: nothing}\n")
        with pytest.raises(Exception, match="nothing"):
            client.ask(c.Reload(), c.Done)
        assert list(setup.status().types) == ["vbd"]
        setup.config.write_text(
            good.replace("vbd: {handler: block}", "vbd: {handler: block, enabled: false}")
            + "  qdisk: {handler: block}\n"
        )
        assert "off: vbd" in client.ask(c.Reload(), c.Done).text
        wait_until(lambda: setup.state(3, 1) == b"5", "closing")
        assert list(setup.status().types) == ["qdisk"]


def test_daemon_control_answers_or_refuses(setup: Setup) -> None:
    """Show, events, restart and log level work; what is not there is refused with a reason."""
    setup.xenstored()
    setup.plug(3, 1)
    setup.supervisor()
    setup.wait_phase("vbd/3/1", "serving")
    wait_until(lambda: setup.state(3, 1) == b"4", "Connected")
    with Client(setup.directory) as client:
        shown = client.ask(c.Show(device="vbd/3/1"), c.ShowReply)
        assert shown.backend_nodes["sectors"] == "8"
        assert shown.frontend_path == paths(3, 1)[1]
        texts = [event.text for event in client.ask(c.Events(), c.EventsReply).events]
        assert "InitWait -> Connected" in texts
        client.ask(c.LogLevel(device="vbd/3/1", level="debug"), c.Done)
        client.ask(c.Restart(device="vbd/3/1"), c.Done)
        setup.wait_phase("vbd/3/1", "serving", generation=2)
        with pytest.raises(Exception, match="none of that name"):
            client.ask(c.Show(device="vbd/3/2"), c.ShowReply)
        with pytest.raises(Exception, match="one of debug"):
            client.ask(c.LogLevel(device="vbd/3/1", level="loud"), c.Done)


def test_daemon_hung_worker_is_killed_and_replaced(setup: Setup) -> None:
    """A worker that stops beating (SIGSTOP) is found, killed and replaced."""
    text = setup.config.read_text().replace("hello: 5", "hello: 5, beat: 0.1, beat_dead: 0.6")
    setup.config.write_text(text)
    setup.xenstored()
    setup.plug(3, 1)
    setup.supervisor()
    pid = setup.wait_phase("vbd/3/1", "serving").pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    setup.wait_phase("vbd/3/1", "serving", generation=2)
    assert "no beat for" in setup.log.read_text()
