# SPDX-License-Identifier: MIT
"""The whole supervisor in a process of its own, with a real xenstored and real workers."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from shared import control as c
from supervisor.cli.client import Client
from tests.fakes.waiting import DEADLINE, wait_until
from tests.process.daemon_setup import Setup, paths


@pytest.fixture
def setup() -> Iterator[Setup]:
    with contextlib.closing(Setup()) as made:
        yield made


def test_s23_xenstored_absent_is_a_clear_failure_and_nothing_is_left(setup: Setup) -> None:
    """Without xenstored `serve` ends at once, says so, and leaves no socket or process."""
    (setup.directory / "embedded" / "xenstored").mkdir(parents=True)
    process = setup.supervisor()
    assert process.wait(DEADLINE) == 75
    assert "xenstored/socket" in setup.log.read_text()
    assert not list(setup.directory.glob("*.sock"))


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
        assert shown.backend_nodes["max-things"] == "8"
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
