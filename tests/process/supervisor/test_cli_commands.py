# SPDX-License-Identifier: MIT
"""The command as a process of its own, and its talk with a supervisor over the real sockets.

The supervisor here is a thread with the two sockets and answers from a table: what is tested is
the command line's end.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from shared import control
from shared.control import DeviceStatus, Done, EventsReply, Refused, ShowReply, StatusReply
from shared.errors import BackendBug
from supervisor.cli.client import Client, RefusedError, UnavailableError
from tests.fakes.control_server import Supervisor, event
from tests.root import ROOT


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A runtime directory with a short path."""
    path = Path(tempfile.mkdtemp(prefix="xbd"))
    yield path
    shutil.rmtree(path)


def xenbackd(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command; its output is piped."""
    return subprocess.run(
        [sys.executable, "-m", "supervisor.cli.main", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        **options,
    )


DEVICE = DeviceStatus(
    device="vbd/3/51712",
    backend="Connected",
    frontend="Connected",
    online=True,
    phase="serving",
    hold="",
    pid=4711,
    generation=1,
    restarts=0,
    failures=0,
    error="guest said \x1b[2J",
    since=1.0,
    counters={},
)

STATUS = StatusReply(
    version="0.1.0",
    pid=1,
    uptime=1.0,
    xenstore="connected",
    hypervisor="embedded",
    types={"vbd": "block"},
    devices=[DEVICE],
)


def answer(request: control.AnyRequest) -> control.Reply | None:
    """What the supervisor here says; None says nothing."""
    match request:
        case control.Status():
            return STATUS
        case control.Show(device="vbd/3/51712"):
            nodes = {"state": "4"}
            return ShowReply(
                device=DEVICE,
                backend_path="/b",
                frontend_path="/f",
                backend_nodes=nodes,
                frontend_nodes=nodes,
                events=[event(1)],
            )
        case control.Show() | control.Restart(device="vbd/9/9"):
            return Refused(text=f"{request.device}: no such device", exit_code=78)
        case control.Events():
            return EventsReply(events=[event(1), event(2)][-request.count :])
        case control.Reload():
            return None
        case _:
            return Done(text=f"done {request}")


@pytest.fixture
def supervisor(run_dir: Path) -> Iterator[Supervisor]:
    """A supervisor that answers from the table."""
    running = Supervisor(run_dir, answer)
    yield running
    running.close()


# --- without a supervisor --------------------------------------------------------------------


@pytest.mark.parametrize("words", ["status", "restart vbd/3/1", "events --follow"])
def test_cli_no_supervisor_ends_with_69_and_one_clear_error(words: str, run_dir: Path) -> None:
    """Nobody listens: which socket, why, and what to do."""
    done = xenbackd("--run-dir", str(run_dir), *words.split())

    assert done.returncode == 69
    assert done.stdout == ""
    assert done.stderr.startswith(f"xenbackd: no supervisor is running: {run_dir}/")
    assert "xenbackd serve" in done.stderr


def test_cli_socket_of_a_dead_supervisor_ends_with_69(run_dir: Path) -> None:
    """A socket left behind is not waited for."""
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(run_dir / control.CONTROL_SOCKET))
    left.close()
    done = xenbackd("--run-dir", str(run_dir), "status")

    assert done.returncode == 69
    assert "Connection refused" in done.stderr


def test_cli_check_config_accepts_the_default_file() -> None:
    """The file that is handed out is valid, and the answer is plain text."""
    done = xenbackd("check-config", "config/xenbackd.yaml")

    assert (done.returncode, done.stderr) == (0, "")
    assert "2 types enabled: vbd (block), vbd3 (block)\n" in done.stdout
    assert "\x1b" not in done.stdout


def test_cli_check_config_reads_standard_input() -> None:
    """A file can come through a pipe; the error is the operator's, exit code 78."""
    done = xenbackd("check-config", "/dev/stdin", input="types:\n  vbd: {handler: blok}\n")

    assert done.returncode == 78
    assert done.stderr.startswith("xenbackd: /dev/stdin:2: types.vbd.handler: unknown handler")


def test_cli_doctor_looks_at_this_host(run_dir: Path) -> None:
    """Whatever this host is, the report is complete, plain, and agrees with its exit code."""
    done = xenbackd("--run-dir", str(run_dir), "doctor", "--json")
    data = json.loads(done.stdout)

    assert data["can_serve"] is (done.returncode == 0)
    assert {"Python", "Kernel", "Jail", "Host", "Real Xen", "Embedded"} == {
        one["section"] for one in data["findings"]
    }
    assert all(one["remedy"] for one in data["findings"] if one["level"] != "ok")


def test_cli_reader_that_goes_away_is_no_traceback(run_dir: Path) -> None:
    """`xenbackd … | head` ends quietly."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "supervisor.cli.main", "check-config", "config/xenbackd.yaml"],
            cwd=ROOT,
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
        )
    finally:
        os.close(writer)

    assert (done.returncode, done.stderr) == (141, b"")


def test_cli_status_does_not_load_what_it_does_not_need(run_dir: Path) -> None:
    """A status in a script pays neither for rich nor for YAML nor for the guest's side."""
    program = (
        "import sys; from supervisor.cli.main import main;"
        "main(['--run-dir', sys.argv[1], 'status']);"
        "print({'rich', 'yaml', 'config', 'embedded'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(run_dir)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )

    assert done.stdout == "set()\n"


# --- with one --------------------------------------------------------------------------------


@pytest.mark.usefixtures("supervisor")
def test_cli_status_piped_is_plain(run_dir: Path) -> None:
    """Aligned text without colours, a guest's escape sequence made visible."""
    done = xenbackd("status", "--run-dir", str(run_dir))

    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert r"guest said \x1b[2J" in done.stdout


@pytest.mark.usefixtures("supervisor")
def test_cli_status_json_is_the_reply(run_dir: Path) -> None:
    """Machines get all the fields."""
    done = xenbackd("status", "--json", "--run-dir", str(run_dir))

    data = json.loads(done.stdout)
    assert data.pop("reply") == "StatusReply"
    assert msgspec.convert(data, StatusReply) == STATUS


@pytest.mark.usefixtures("supervisor")
def test_cli_show_unknown_device_ends_with_the_supervisors_code(run_dir: Path) -> None:
    """The supervisor's refusal is the command's error."""
    done = xenbackd("show", "vbd/9/9", "--run-dir", str(run_dir))

    assert (done.returncode, done.stderr) == (78, "xenbackd: vbd/9/9: no such device\n")


@pytest.mark.parametrize("patient", [True, False])
def test_cli_request_ends_with_the_supervisor_it_was_made_to(run_dir: Path, patient: bool) -> None:
    """A successor on the same socket was asked nothing: whoever waits is told, and not for ever."""
    asked = threading.Event()

    def silent(_: control.AnyRequest) -> None:
        asked.set()

    first = Supervisor(run_dir, silent)
    successors: list[Supervisor] = []

    def replace() -> None:
        asked.wait()
        first.close()
        successors.append(Supervisor(run_dir, answer))

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        with (
            Client(run_dir, timeout=60) as client,
            pytest.raises(UnavailableError, match="went away"),
        ):
            client.ask(control.RestartRolling([]), Done, patient=patient)
    finally:
        thread.join()
        for one in successors:
            one.close()


@pytest.mark.usefixtures("supervisor")
def test_cli_clear_asks_for_it_and_prints_the_answer(run_dir: Path) -> None:
    """The device goes with the request, the supervisor's words are shown."""
    done = xenbackd("clear", "vbd/3/51712", "--run-dir", str(run_dir))

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "done Clear(device='vbd/3/51712')\n"


@pytest.mark.usefixtures("supervisor")
def test_cli_status_watch_goes_on_until_interrupted(run_dir: Path) -> None:
    """The status comes at once, and again; Ctrl-C is the way to end it."""
    with subprocess.Popen(
        [sys.executable, "-m", "supervisor.cli.main", "status", "--watch"],
        cwd=ROOT,
        env={**os.environ, "XENBACKD_RUN_DIR": str(run_dir)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(8)]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0

    assert [line for line in lines if line.startswith("xenbackd 0.1.0")] == [lines[0], lines[6]]


def test_cli_events_follow_goes_on_until_interrupted(supervisor: Supervisor, run_dir: Path) -> None:
    """The last ones first, then each as it happens and none twice; Ctrl-C ends it with 0."""
    command = ["events", "--follow", "--json", "--run-dir", str(run_dir)]
    with subprocess.Popen(
        [sys.executable, "-m", "supervisor.cli.main", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    supervisor.close()

    assert [json.loads(line)["seq"] for line in lines] == [1, 2, 3]


def test_cli_events_follow_ends_when_the_supervisor_goes(
    supervisor: Supervisor, run_dir: Path
) -> None:
    """Nobody waits for ever for a supervisor that is gone."""
    command = ["events", "--follow", "--run-dir", str(run_dir)]
    with subprocess.Popen(
        [sys.executable, "-m", "supervisor.cli.main", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() != "" for _ in range(3)] == [True] * 3
        supervisor.close()
        assert process.wait(timeout=30) == 69
        assert process.stderr is not None
        assert "the supervisor went away" in process.stderr.read()


@pytest.mark.parametrize("data", [b"{", b"\xff", b'{"seq": "one"}'])
def test_client_event_that_is_none_is_the_supervisors_bug(run_dir: Path, data: bytes) -> None:
    """Of another version, or of another program: said in words, with the socket's path."""
    with zmq.Context() as context, context.socket(zmq.XPUB) as events, Client(run_dir) as client:
        events.bind(f"ipc://{run_dir / control.EVENTS_SOCKET}")
        stream = client.follow()
        events.recv()
        events.send_multipart([b"event", data])
        with pytest.raises(BackendBug, match=rf"event of the supervisor: {run_dir}.*versions"):
            next(iter(stream))
        stream.close()


@pytest.mark.usefixtures("supervisor")
def test_client_asks_one_after_the_other(run_dir: Path) -> None:
    """One connection serves many requests; each gets its own reply."""
    with Client(run_dir) as client:
        assert client.ask(control.Status(), StatusReply) == STATUS
        assert client.ask(control.Show("vbd/3/51712"), ShowReply).device == DEVICE
        assert client.ask(control.Events(1), EventsReply).events == [event(2)]
        assert "debug" in client.ask(control.LogLevel("vbd/3/51712", "debug"), Done).text


@pytest.mark.usefixtures("supervisor")
def test_client_silent_supervisor_is_an_error_in_time(run_dir: Path) -> None:
    """No reply in time is an error, and the next request gets its own reply."""
    with Client(run_dir, timeout=0.2) as client:
        with pytest.raises(UnavailableError, match=r"does not answer: .* within 0\.2 s"):
            client.ask(control.Reload(), Done)
        assert client.ask(control.Status(), StatusReply) == STATUS


@pytest.mark.usefixtures("supervisor")
def test_client_wrong_reply_is_a_bug_of_ours(run_dir: Path) -> None:
    """A reply of another kind is not taken for the expected one."""
    with Client(run_dir) as client, pytest.raises(BackendBug, match="StatusReply instead of Done"):
        client.ask(control.Status(), Done)


@pytest.mark.usefixtures("supervisor")
def test_client_refusal_carries_the_exit_code(run_dir: Path) -> None:
    """The supervisor decides with which code the command ends."""
    with Client(run_dir) as client, pytest.raises(RefusedError) as caught:
        client.ask(control.Restart("vbd/9/9"), Done)

    assert caught.value.exit_code == 78


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_client_directory_of_somebody_else_is_refused(run_dir: Path) -> None:
    """Below /tmp anybody could have made the directory first."""
    os.chown(run_dir, 12345, 12345)
    with Client(run_dir) as client, pytest.raises(UnavailableError, match="somebody else"):
        client.ask(control.Status(), StatusReply)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's workers would be root")
@pytest.mark.parametrize("arguments", [(), ("--check",)])
def test_cli_serve_as_root_without_a_jail_refuses_unless_told(
    run_dir: Path, arguments: tuple[str, ...]
) -> None:
    """Exit code 78 and what to write if that is meant; check-config notes it beforehand."""
    file = run_dir / "x.yaml"
    file.write_text("jail: {mode: off}\ntypes: {vbd: {handler: block}}\n")
    done = xenbackd("--run-dir", str(run_dir), "serve", "-c", str(file), *arguments)
    assert done.returncode == 78
    assert "mode is off" in done.stderr
    assert "unjailed_root: true" in done.stderr
    done = xenbackd("check-config", str(file))
    assert (done.returncode, "serve refuses that as root" in done.stdout) == (0, True)
