# SPDX-License-Identifier: MIT
"""The device model as a process, as libxl would start it, on the embedded xenstored."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from embedded.xenstored.launch import start_xenstored
from shared.xenstore.blocking import BlockingXenstore
from tests.root import ROOT

DOMID = 5
STATE = f"/local/domain/0/device-model/{DOMID}/state"
CAPABILITIES = {"execute": "qmp_capabilities"}


class Host:
    """A xenstored with one guest, and device models started by it."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="xbd"))
        self.daemon = start_xenstored(self.directory)
        self.xenstore = BlockingXenstore(self.directory / "socket", timeout=20)
        self.sockets = [self.directory / "qmp-libxl", self.directory / "qmp-libxenstat"]
        self.log = self.directory / "qemu-dm.log"
        self.running: list[subprocess.Popen[bytes]] = []
        self.introduce("one")

    def introduce(self, vm: str) -> None:
        """Make the guest, with an identity."""
        self.xenstore.write(f"/local/domain/{DOMID}/vm", f"/vm/{vm}")
        self.xenstore.introduce(DOMID)

    def command(self) -> list[str]:
        """libxl's command line, shortened."""
        arguments = f"-xen-domid {DOMID} -no-shutdown -name web -machine xenpv -m 128".split()
        for number, path in enumerate(self.sockets):
            where = f"socket,id=s{number},path={path},server=on,wait=off"
            arguments += ["-chardev", where, "-mon", f"chardev=s{number},mode=control"]
        return [sys.executable, "-m", "supervisor.devicemodel.main", *arguments]

    def start(self, *more: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a device model; does not wait."""
        environment = {**os.environ, "XENSTORED_PATH": str(self.directory / "socket")}
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [*self.command(), *more],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **options,
            )
        self.running.append(process)
        return process

    def ready(self) -> subprocess.Popen[bytes]:
        """Start one and wait as libxl does: for the node."""
        self.xenstore.watch(STATE, "state")
        process = self.start()
        while self.xenstore.read_or_none(STATE) != b"running":
            assert self.xenstore.wait_event(60) is not None, self.log.read_text()
        self.xenstore.unwatch(STATE, "state")
        return process

    def close(self) -> None:
        """Stop everything."""
        for process in self.running:
            process.kill()
            process.wait()
        self.xenstore.close()
        self.daemon.kill()
        self.daemon.wait()
        shutil.rmtree(self.directory)


@pytest.fixture
def host() -> Iterator[Host]:
    """A host; stopped and removed afterwards."""
    made = Host()
    yield made
    made.close()


class Client:
    """A QMP client."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(60)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rb")
        self.greeting = self.receive()

    def receive(self) -> Any:
        """The next answer; None at the end."""
        line = self._file.readline()
        return json.loads(line) if line else None

    def ask(self, command: str) -> Any:
        """Ask, and wait for the answer. No line end is sent."""
        self.send(json.dumps({"execute": command}).encode())
        return self.receive()

    def send(self, data: bytes) -> None:
        """Any bytes."""
        self._socket.sendall(data)

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self._socket.close()


@pytest.fixture
def client(host: Host) -> Iterator[Client]:
    """A client of a device model that is ready."""
    host.ready()
    made = Client(host.sockets[0])
    yield made
    made.close()


def test_devicemodel_started_tells_xenstore_and_answers_on_both_sockets(host: Host) -> None:
    """The node libxl waits for comes when the sockets are there; they are for root alone."""
    process = host.ready()
    for path in host.sockets:
        assert path.stat().st_mode & 0o777 == 0o600
        client = Client(path)
        assert client.greeting["QMP"]
        assert client.ask("qmp_capabilities") == {"return": {}}
        assert len(client.ask("query-chardev")["return"]) == 2
        client.close()

    assert process.poll() is None


def test_devicemodel_several_clients_do_not_wait_for_each_other(host: Host, client: Client) -> None:
    """One that says nothing, or sends half a command, holds up nobody."""
    client.send(b'{"execute": "qmp_capa')
    other = Client(host.sockets[0])

    assert other.ask("qmp_capabilities") == {"return": {}}
    other.close()
    client.send(b'bilities"}')
    assert client.receive() == {"return": {}}


def test_devicemodel_client_of_nonsense_is_hung_up_on(host: Host, client: Client) -> None:
    """With an error; the next one is served."""
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    other = Client(host.sockets[0])

    assert client.receive()["error"]["class"] == "GenericError"
    assert client.receive() is None
    assert other.ask("qmp_capabilities") == {"return": {}}
    other.close()


def test_devicemodel_more_clients_than_places_are_served_in_turn(host: Host) -> None:
    """They wait in the socket's queue until one leaves."""
    host.ready()
    clients = [Client(host.sockets[0]) for _ in range(8)]
    late = socket.socket(socket.AF_UNIX)
    late.settimeout(60)
    late.connect(str(host.sockets[0]))
    clients[0].close()

    assert b"QMP" in late.recv(4096)
    late.close()
    for client in clients[1:]:
        client.close()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_devicemodel_signal_ends_it_and_its_sockets(host: Host, number: signal.Signals) -> None:
    """libxl sends SIGHUP; nothing is left behind."""
    process = host.ready()
    process.send_signal(number)

    assert process.wait(60) == 0
    assert [path for path in host.sockets if path.exists()] == []
    assert number.name in host.log.read_text()


def test_devicemodel_quit_is_answered_then_it_ends(host: Host, client: Client) -> None:
    """As QEMU does."""
    client.ask("qmp_capabilities")

    assert client.ask("quit") == {"return": {}}
    assert client.receive() is None
    assert host.running[0].wait(60) == 0


def test_devicemodel_ends_when_its_guest_does(host: Host) -> None:
    """Also if libxl forgets it; another guest's end is none of its business."""
    process = host.ready()
    host.xenstore.introduce(6)
    host.xenstore.release(6)
    client = Client(host.sockets[0])
    assert client.ask("qmp_capabilities") == {"return": {}}
    assert process.poll() is None
    client.close()
    host.xenstore.release(DOMID)

    assert process.wait(60) == 0
    assert "the guest is gone" in host.log.read_text()


def test_devicemodel_ends_when_its_number_is_another_guests(host: Host) -> None:
    """A new domain with the same number and another /vm is not the one it belongs to."""
    process = host.ready()
    process.send_signal(signal.SIGSTOP)
    host.xenstore.release(DOMID)
    host.introduce("two")
    process.send_signal(signal.SIGCONT)

    assert process.wait(60) == 0


def test_devicemodel_successor_keeps_its_sockets(host: Host) -> None:
    """An old one that ends late does not remove what a new one has made."""
    old = host.ready()
    host.xenstore.rm(STATE)
    host.ready()
    old.send_signal(signal.SIGHUP)

    assert old.wait(60) == 0
    client = Client(host.sockets[0])
    assert client.ask("qmp_capabilities") == {"return": {}}
    client.close()


def test_devicemodel_lost_xenstored_does_not_end_it(host: Host, client: Client) -> None:
    """QMP is answered meanwhile; the guest lives on."""
    host.daemon.kill()
    host.daemon.wait()

    assert client.ask("qmp_capabilities") == {"return": {}}
    assert client.ask("query-status")["return"]["running"] is True
    assert host.running[0].poll() is None


def test_devicemodel_unknown_domain_is_a_host_error(host: Host) -> None:
    """Nothing is announced, nothing left."""
    host.xenstore.release(DOMID)

    assert host.start().wait(60) == 75
    assert host.xenstore.read_or_none(STATE) is None
    assert "xenstored does not know it" in host.log.read_text()


def test_devicemodel_hvm_guest_is_refused(host: Host) -> None:
    """The log says what to change; libxl sees it end at once."""
    assert host.start("-machine", "xenfv").wait(60) == 78
    assert "only PV and PVH guests" in host.log.read_text()
    assert host.xenstore.read_or_none(STATE) is None


def test_devicemodel_file_in_place_of_its_socket_is_not_removed(host: Host) -> None:
    """Only a socket of a former device model is."""
    host.sockets[1].write_text("mine")

    assert host.start().wait(60) == 78
    assert host.sockets[1].read_text() == "mine"
    assert not host.sockets[0].exists()


def test_devicemodel_inherited_socket_is_served(host: Host) -> None:
    """libxl listens itself with dm_restrict, and asks for the status."""
    path = host.directory / "inherited"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(1)
        where = f"socket,id=r,fd={listening.fileno()},server=on,wait=off"
        more = ("-S", "-chardev", where, "-mon", "chardev=r,mode=control")
        host.start(*more, pass_fds=[listening.fileno()])
        client = Client(path)
    client.ask("qmp_capabilities")

    assert client.ask("query-status")["return"]["status"] == "prelaunch"
    client.close()


def test_devicemodel_imports_little() -> None:
    """There is one for every guest and libxl waits for it: none of the big libraries."""
    program = "import sys, supervisor.devicemodel.main; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert {"asyncio", "msgspec", "rich", "zmq", "yaml"} & set(done.stdout.split()) == set()
