# SPDX-License-Identifier: MIT
"""The embedded xenstored as a process: sockets, clients of all kinds, death and restart."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedded.xenstored import quotas
from embedded.xenstored.launch import start_xenstored
from shared.errors import HostError
from shared.xenstore.blocking import BlockingXenstore
from shared.xenstore.errors import (
    AccessDeniedError,
    ConnectionLostError,
    NoEntryError,
    QuotaError,
    TransactionConflictError,
    XenstoreError,
)
from shared.xenstore.wire import HEADER, Op, Packet, Perm, WatchEvent

HOME = "/local/domain/5"


class Daemon:
    """One server that can be killed and started anew on its directory."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="xbd"))
        self.socket = str(self.directory / "socket")
        self.process = start_xenstored(self.directory)

    def connect(self, domid: int = 0) -> BlockingXenstore:
        """A client of a domain."""
        path = self.directory / "domain" / str(domid) if domid else self.socket
        return BlockingXenstore(path)

    def kill(self) -> None:
        """SIGKILL, and wait until it is dead."""
        self.process.kill()
        self.process.wait()

    def start(self) -> None:
        """Start it anew."""
        self.process = start_xenstored(self.directory)

    def tool(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run one of Debian's xenstore tools on it."""
        return subprocess.run(
            command,
            env={**os.environ, "XENSTORED_PATH": self.socket},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A running server; stopped and removed afterwards."""
    server = Daemon()
    yield server
    server.process.send_signal(signal.SIGCONT)
    server.kill()
    shutil.rmtree(server.directory)


@pytest.fixture
def dom0(daemon: Daemon) -> Iterator[BlockingXenstore]:
    """Domain 0's client; domain 5 is introduced and owns its home."""
    with daemon.connect() as client:
        client.introduce(5)
        client.mkdir(HOME)
        client.set_perms(HOME, ["n5"])
        yield client


def is_closed(sock: socket.socket) -> bool:
    """Whether the peer has closed; waits for it."""
    sock.settimeout(10)
    try:
        while sock.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


def test_xenstored_blocking_client_nodes_and_transactions(dom0: BlockingXenstore) -> None:
    """Everything a guest's or toolstack's program needs works."""
    dom0.write("/a/b", b"1")
    dom0.write("/a/empty", "")
    assert (dom0.read("/a/b"), dom0.read("/a/empty")) == (b"1", b"")
    assert dom0.directory("/a") == ["b", "empty"]
    assert dom0.read_or_none("/none") is None
    with pytest.raises(NoEntryError):
        dom0.read("/none")

    def failing(tx: int) -> None:
        dom0.write("/a/b", b"2", tx)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        dom0.transact(failing)
    assert dom0.read("/a/b") == b"1"
    runs = []

    def body(tx: int) -> bytes:
        runs.append(dom0.read("/a/b", tx))
        if len(runs) == 1:
            dom0.write("/a/b", b"9")
        dom0.write("/a/c", runs[-1], tx)
        return runs[-1]

    assert dom0.transact(body) == b"9"
    assert (runs, dom0.read("/a/c")) == ([b"1", b"9"], b"9")

    def conflicting() -> None:
        with dom0.transaction() as tx:
            dom0.read("/a/b", tx)
            dom0.write("/a/b", b"0")

    with pytest.raises(TransactionConflictError):
        conflicting()
    dom0.rm("/a")
    assert dom0.read_or_none("/a/b") is None


def test_xenstored_domain_socket_is_that_domain(daemon: Daemon, dom0: BlockingXenstore) -> None:
    """A guest has its own home and rights; release ends its connections and removes its socket."""
    with daemon.connect(5) as guest:
        guest.write("device/x", b"1")
        assert dom0.read(f"{HOME}/device/x") == b"1"
        assert dom0.get_perms(f"{HOME}/device/x") == [Perm("n", 5)]
        with pytest.raises(AccessDeniedError):
            guest.write("/local/x", b"1")
        with pytest.raises(AccessDeniedError):
            guest.introduce(6)
        with pytest.raises(QuotaError):
            guest.write("device/x", b"x" * 2049)
        dom0.release(5)
        with pytest.raises(ConnectionLostError):
            guest.read("device/x")
    with pytest.raises(HostError, match="can't connect"):
        daemon.connect(5)
    assert not dom0.is_domain_introduced(5)


def test_xenstored_watch_events_reach_other_connections(
    daemon: Daemon, dom0: BlockingXenstore
) -> None:
    """A change by one connection wakes another one that waits on its descriptor."""
    with daemon.connect(5) as guest:
        dom0.watch(HOME, "t")
        assert dom0.wait_event(10) == WatchEvent(HOME, "t")
        assert dom0.wait_event(0) is None
        guest.write("state", b"4")
        assert select.select([dom0.fileno()], [], [], 10)[0]
        assert dom0.wait_event(10) == WatchEvent(f"{HOME}/state", "t")
        dom0.unwatch(HOME, "t")
        guest.write("state", b"5")
        assert dom0.read(f"{HOME}/state") == b"5"
        assert dom0.wait_event(0) is None


def test_xenstored_killed_content_and_domains_are_there_again(
    daemon: Daemon, dom0: BlockingXenstore
) -> None:
    """Everything that was answered survives SIGKILL; clients that ask for it reconnect."""
    for number in range(300):
        dom0.write(f"/many/n{number}", b"%d" % number)
    dom0.rm("/many/n7")
    with BlockingXenstore(daemon.directory / "domain" / "5", reconnect=True) as guest:
        guest.watch("x", "t")
        guest.write("x", b"kept")
        while guest.wait_event(0.0):
            pass
        daemon.kill()
        daemon.start()
        with pytest.raises(ConnectionLostError):
            guest.read("x")
        assert guest.read("x") == b"kept"
        assert guest.wait_event(10) == WatchEvent("x", "t")
    with daemon.connect() as again:
        assert len(again.directory("/many")) == 299
        assert again.read("/many/n299") == b"299"
        assert again.get_perms(f"{HOME}/x") == [Perm("n", 5)]
        assert again.is_domain_introduced(5)


def test_xenstored_stopped_leaves_no_socket(daemon: Daemon, dom0: BlockingXenstore) -> None:
    """SIGTERM is an orderly end: status 0, sockets gone, the journal kept."""
    daemon.process.terminate()
    assert daemon.process.wait(timeout=10) == 0
    assert sorted(path.name for path in daemon.directory.iterdir()) == ["lock", "store.log"]


def test_xenstored_second_instance_is_refused(
    daemon: Daemon, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two servers on one directory are impossible; the first one does not notice."""
    with pytest.raises(HostError, match="exit status 75"):
        start_xenstored(daemon.directory)
    assert "another xenstored" in capfd.readouterr().err
    with daemon.connect() as client:
        assert client.read("/") == b""


def test_xenstored_directory_path_too_long_is_a_config_error(
    daemon: Daemon, capfd: pytest.CaptureFixture[str]
) -> None:
    """Said before anything is made, with the limit."""
    with pytest.raises(HostError, match="exit status 78"):
        start_xenstored(daemon.directory / ("x" * 90))
    assert "too long for UNIX sockets" in capfd.readouterr().err


def test_xenstored_hostile_clients_disturb_nobody(daemon: Daemon, dom0: BlockingXenstore) -> None:
    """Oversized headers, noise, half packets, unknown operations, connection floods."""
    path = str(daemon.directory / "domain" / "5")
    for poison in (struct.pack("=IIII", Op.READ, 1, 0, 4097), b"\xff" * 100):
        with socket.socket(socket.AF_UNIX) as hostile:
            hostile.connect(path)
            hostile.sendall(poison)
            assert is_closed(hostile)
    with socket.socket(socket.AF_UNIX) as half:
        half.connect(path)
        half.sendall(struct.pack("=III", Op.READ, 1, 0))
        with BlockingXenstore(path) as guest:
            for op in (Op.CONTROL, Op.WATCH_EVENT, Op.ERROR, 4711, 0xFFFFFFFF):
                with pytest.raises(XenstoreError, match="ENOSYS"):
                    guest.request(op, b"\0" * 100)
            guest.write("x", b"1")
            assert dom0.read(f"{HOME}/x") == b"1"
        half.sendall(struct.pack("=I", 2) + b"x\0")
        half.settimeout(10)
        assert half.recv(100) == Packet(Op.READ, b"1", 1).encode()
    flood = [BlockingXenstore(path) for _ in range(quotas.CONNECTIONS_MAX + 1)]
    with pytest.raises(ConnectionLostError):
        flood[-1].read("x")
    assert flood[0].read("x") == b"1"
    for client in flood:
        client.close()


def test_xenstored_client_that_does_not_read_is_bounded(
    daemon: Daemon, dom0: BlockingXenstore
) -> None:
    """Its requests wait unread and all are answered once it reads; others go on meanwhile."""
    dom0.write("/big", b"x" * 4000)
    count = 2000
    request = b"".join(Packet(Op.READ, b"/big\0", number).encode() for number in range(count))
    with socket.socket(socket.AF_UNIX) as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        lazy.connect(daemon.socket)
        lazy.setblocking(False)
        sent = lazy.send(request)
        assert sent < len(request)
        assert dom0.read("/big") == b"x" * 4000
        received = 0
        while received < count * (HEADER.size + 4000):
            writable = [lazy] if sent < len(request) else []
            readable, writable, _ = select.select([lazy], writable, [], 10)
            assert readable or writable
            if readable:
                received += len(lazy.recv(1 << 20))
            if writable:
                sent += lazy.send(request[sent:])


def test_xenstored_events_nobody_reads_are_coalesced_then_cut_off(
    daemon: Daemon, dom0: BlockingXenstore
) -> None:
    """The same event waits once; too many different ones end the connection."""
    long = "n" * 1000
    with daemon.connect() as lazy:
        lazy.watch("/w", "t" * 1000)
        for number in range(600):
            dom0.write(f"/w/{long}{number}", b"")
        for _ in range(500):
            dom0.write(f"/w/{long}0", b"")
        events = 0
        while lazy.wait_event(0.0 if events > 600 else 10):
            events += 1
            if events > 600 and lazy.read("/w") == b"":
                break
        assert 601 <= events <= 700
        for number in range(quotas.EVENTS_MAX + 700):
            dom0.write(f"/w/{number}", b"")

        def read_until_cut_off() -> None:
            while True:
                lazy.read("/w")

        with pytest.raises(ConnectionLostError):
            read_until_cut_off()
    assert dom0.read("/w") == b""


def test_xenstored_hung_server_times_out(daemon: Daemon, dom0: BlockingXenstore) -> None:
    """A stopped server does not hold anybody for ever, and goes on afterwards."""
    daemon.process.send_signal(signal.SIGSTOP)
    impatient = BlockingXenstore(daemon.socket, timeout=0.2)
    with pytest.raises(ConnectionLostError, match=r"no answer within 0\.2 s"):
        impatient.read("/")
    daemon.process.send_signal(signal.SIGCONT)
    assert dom0.read("/") == b""


@pytest.mark.skipif(shutil.which("xenstore-ls") is None, reason="xenstore-utils is not installed")
def test_xenstored_debian_tools_work(daemon: Daemon) -> None:
    """xenstore-write, -read, -list, -exists, -chmod, -ls, -watch and -rm of xenstore-utils."""
    assert daemon.tool("xenstore-write", "/a/b", "hello", "/a/c", "").returncode == 0
    assert daemon.tool("xenstore-read", "/a/b").stdout.strip() == "hello"
    assert daemon.tool("xenstore-list", "/a").stdout.split() == ["b", "c"]
    assert daemon.tool("xenstore-exists", "/none").returncode == 1
    assert daemon.tool("xenstore-chmod", "/a/b", "n0", "r5").returncode == 0
    listing = daemon.tool("xenstore-ls", "-p", "/a").stdout
    assert 'b = "hello"' in listing
    assert "(n0,r5)" in listing
    with daemon.connect() as client:
        for number in range(1000):
            client.mkdir(f"/many/node-{number:05}")
    assert len(daemon.tool("xenstore-list", "/many").stdout.split()) == 1000
    watch = subprocess.Popen(
        ["xenstore-watch", "-n", "2", "/a"],
        env={**os.environ, "XENSTORED_PATH": daemon.socket},
        stdout=subprocess.PIPE,
        text=True,
    )
    with watch:
        assert watch.stdout is not None
        assert watch.stdout.readline() == "/a\n"
        daemon.tool("xenstore-write", "/a/b", "again")
        assert watch.stdout.readline() == "/a/b\n"
        assert watch.wait(timeout=10) == 0
    assert daemon.tool("xenstore-rm", "/a").returncode == 0
    assert daemon.tool("xenstore-read", "/a/b").returncode != 0


def test_blocking_client_many_nodes_are_pipelined_in_order(dom0: BlockingXenstore) -> None:
    """More nodes than go in one round trip are all written, and read with gaps as None."""
    nodes = {f"/many/n{number}": b"%d" % number for number in range(150)}
    dom0.write_many(nodes)
    asked = ["/many/none", *nodes]

    assert dom0.read_many(asked) == [None, *nodes.values()]


def test_blocking_client_refused_among_many_leaves_the_connection_usable(
    daemon: Daemon, dom0: BlockingXenstore
) -> None:
    """A refusal names its node, and the answers after it are not taken for later ones'."""
    dom0.write("/secret", b"x")
    with daemon.connect(5) as guest:
        with pytest.raises(AccessDeniedError, match="/secret"):
            guest.write_many({"a": "1", "/secret": "2", "b": "3"})

        assert guest.read_many(["a", "b"]) == [b"1", b"3"]
