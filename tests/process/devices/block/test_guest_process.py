# SPDX-License-Identifier: MIT
"""Guests as processes: made, loaded, changed, killed; what of the rest lives on."""

from __future__ import annotations

import json
import os
import runpy
import select
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from embedded.guest.client import GuestClient
from embedded.guest.control import LINE_MAX, socket_path
from embedded.guest.launch import GuestHandle, create_guest, find_guest, list_guests
from embedded.hypercalls import Hypercalls
from embedded.launch import start_embedded
from shared.errors import ConfigError, HostError
from shared.xenstore.blocking import BlockingXenstore
from supervisor.cli.main import main
from tests.fakes.block.guest_backend import MiniBackend
from tests.fakes.waiting import wait_until
from tests.root import ROOT
from worker.devices.block.guest.client import RemoteDisk, details_of
from worker.devices.block.guest.disk import DiskSpec
from worker.devices.block.guest.load import LoadConfig
from worker.devices.block.guest.toolstack import new_disks

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A running embedded hypervisor with a backend."""
    path = Path(tempfile.mkdtemp(prefix="xbd"))
    process = start_embedded(path)
    try:
        yield path
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(path)


@pytest.fixture
def backend(directory: Path) -> Iterator[MiniBackend]:
    """A backend for all disks."""
    with MiniBackend(directory) as backend:
        yield backend


@contextmanager
def guest(directory: Path, count: int = 1, name: str = "demo") -> Iterator[GuestHandle]:
    """A guest with so many disks, destroyed at the end."""
    handle = create_guest(directory, name, new_disks([DiskSpec(path="/x")] * count))
    try:
        yield handle
    finally:
        handle.destroy()


def wait_gone(directory: Path, domid: int) -> None:
    """Wait until xenstored has released a domain and its nodes are removed."""
    path = f"/local/domain/{domid}"
    with BlockingXenstore(directory / "xenstored" / "socket") as xs:
        xs.watch("@releaseDomain", "gone")
        xs.watch(path, "gone")
        while xs.is_domain_introduced(domid) or xs.read_or_none(path) is not None:
            assert xs.wait_event(10) is not None


def test_guest_create_connects_all_disks_and_destroy_leaves_nothing(
    directory: Path, backend: MiniBackend
) -> None:
    """Nodes, domain, socket and log are there while it lives and gone after it."""
    with guest(directory, 3) as handle:
        with handle.client() as client:
            disks = client.describe().devices
        assert [d.name for d in disks] == ["xvda", "xvdb", "xvdc"]
        assert {(d.state, details_of(d).size) for d in disks} == {("Connected", 1 << 20)}
    assert [g.name for g in list_guests(directory)] == []
    wait_gone(directory, handle.domid)
    assert not (directory / "guests").exists()
    with BlockingXenstore(directory / "xenstored" / "socket") as xs:
        for path in ("/libxl", "/vm", "/local/domain/0/backend/vbd"):
            assert xs.directory(path) == []


def test_guest_io_verifies_and_remembers_what_it_wrote(
    directory: Path, backend: MiniBackend
) -> None:
    """A second load compares what the first one wrote, and finds what changed in between."""
    with guest(directory) as handle, handle.client() as client:
        first = RemoteDisk(client, "xvda").io(
            LoadConfig(rw="write", depth=8, verify=True, total=1 << 18)
        )
        assert first.ok
        assert first.verified == 64
        backend.disk(handle.domid).data[8192:8200] = b"changed!"
        second = RemoteDisk(client, "51712").io(LoadConfig(rw="read", verify=True, total=1 << 18))
        assert second.mismatches == 1
        assert second.mismatch is not None
        assert second.mismatch.sector == 16


def test_guest_io_progress_is_reported_while_it_runs(directory: Path, backend: MiniBackend) -> None:
    """Counters come in between and never fall."""
    seen: list[int] = []
    with guest(directory) as handle, handle.client() as client:
        config = LoadConfig(rw="randread", depth=4, runtime=0.3)
        result = RemoteDisk(client, "xvda").io(
            config, lambda p: seen.append(p.reads), interval=0.05
        )
        assert result.ok
    assert len(seen) >= 2
    assert seen == sorted(seen)


def test_guest_client_that_goes_away_ends_its_load(directory: Path, backend: MiniBackend) -> None:
    """The disk is free again at once, and works."""
    with guest(directory) as handle:
        leaver = handle.client()
        config = LoadConfig(rw="randread", depth=4, runtime=60.0)
        started = threading.Event()

        def load() -> None:
            with pytest.raises((HostError, ValueError, OSError)):
                RemoteDisk(leaver, "xvda").io(config, lambda _: started.set(), interval=0.02)

        thread = threading.Thread(target=load)
        thread.start()
        assert started.wait(10)
        leaver._socket.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        leaver.close()
        with handle.client() as client:
            # Refused as long as the other load holds the disk; its end is what we wait for.
            wait_until(lambda: not _in_use(client), "the disk to be free")


def test_guest_dd_content_comes_out_as_it_went_in(directory: Path, backend: MiniBackend) -> None:
    """More than one chunk, from an offset on, up to the end."""
    data = os.urandom((1 << 20) - 4096)
    with guest(directory) as handle, handle.client() as client:
        disk = RemoteDisk(client, "xvda")
        disk.write_in(4096, len(data), [data[:1000], data[1000:]])
        assert b"".join(disk.read_out(4096)) == data
        assert backend.disk(handle.domid).data[4096:] == data
        with pytest.raises(ConfigError, match="beyond the disk"):
            disk.write_in(1 << 20, 512, [bytes(512)])


def test_guest_unknown_disk_is_config_error(directory: Path, backend: MiniBackend) -> None:
    """Named, and the connection can be used on."""
    with guest(directory) as handle, handle.client() as client:
        with pytest.raises(ConfigError, match="no such disk"):
            RemoteDisk(client, "xvdz").flush()
        RemoteDisk(client, "xvda").flush()


def test_s12_guest_attach_and_detach_while_it_runs(directory: Path, backend: MiniBackend) -> None:
    """A new disk is connected, a detached one closed on both ends; the first is not touched."""
    with guest(directory) as handle, handle.client() as client:
        [disk] = new_disks([DiskSpec(path="/y")], handle.taken("vbd"))
        handle.attach([disk])
        assert disk.name == "xvdb"
        RemoteDisk(client, "xvdb").io(LoadConfig(rw="write", depth=4, verify=True))
        assert handle.detach("xvdb")
        client.wait_connected(1, 10)
        assert [d.name for d in client.describe().devices] == ["xvda"]
        assert RemoteDisk(client, "xvda").io(LoadConfig(rw="read")).ok
        with Hypercalls(directory) as hypercalls:
            stats = hypercalls.stats().domains[handle.domid]
        assert stats.ports == 1


@pytest.mark.parametrize("orderly", [True, False])
def test_s16_guest_reboot_connects_all_disks_anew(
    directory: Path, backend: MiniBackend, orderly: bool
) -> None:
    """Also without closing first; no port of the old connections is left."""
    with guest(directory, 2) as handle, handle.client() as client:
        disks = client.reboot(orderly=orderly).devices
        assert [d.state for d in disks] == ["Connected"] * 2
        assert RemoteDisk(client, "xvdb").io(LoadConfig(rw="randrw", verify=True, total=1 << 18)).ok
        with Hypercalls(directory) as hypercalls:
            assert hypercalls.stats().domains[handle.domid].ports == 2


def test_guest_killed_is_a_dead_domain_and_others_live_on(
    directory: Path, backend: MiniBackend
) -> None:
    """SIGKILL: the domain dies with its process and is cleaned away; the other guest works."""
    with guest(directory, name="other") as other:
        victim = create_guest(directory, "victim", new_disks([DiskSpec(path="/x")]))
        victim.kill()
        wait_gone(directory, victim.domid)
        assert [g.name for g in list_guests(directory)] == ["other"]
        with other.client() as client:
            assert (
                RemoteDisk(client, "xvda")
                .io(LoadConfig(rw="randrw", verify=True, total=1 << 18))
                .ok
            )


def test_guest_survives_a_killed_xenstored(directory: Path, backend: MiniBackend) -> None:
    """Its rings work meanwhile; afterwards it follows xenstore again."""
    with guest(directory) as handle, handle.client() as client:
        _kill(_xenstored(directory))
        assert RemoteDisk(client, "xvda").io(LoadConfig(rw="randrw", verify=True, total=1 << 18)).ok
        # The host starts another one; a reboot needs it, and waits until it is there.
        assert [d.state for d in client.reboot().devices] == ["Connected"]


def test_guest_without_backend_is_taken_back_with_the_reason(directory: Path) -> None:
    """Nothing is left of a guest whose disks were not connected in time."""
    with pytest.raises(HostError, match=r"xvda Initialising \(backend Initialising\)"):
        create_guest(directory, "alone", new_disks([DiskSpec(path="/x")]), timeout=0.2)
    assert list_guests(directory) == []


def test_guest_name_taken_is_config_error(directory: Path, backend: MiniBackend) -> None:
    """Names are for people: unique."""
    with guest(directory), pytest.raises(ConfigError, match="one of this name"):
        create_guest(directory, "demo", [])
    with pytest.raises(ConfigError, match="no such guest"):
        find_guest(directory, "demo")


def test_guest_control_nonsense_is_refused_and_harmless(directory: Path) -> None:
    """No JSON, an unknown operation, an endless line: the guest goes on."""
    with guest(directory, 0) as handle:
        for line in (b"{}\n", b"nonsense\n", b'{"op":"Fly"}\n', b"x" * (LINE_MAX + 10)):
            with socket.socket(socket.AF_UNIX) as raw:
                raw.settimeout(10)
                raw.connect(str(socket_path(directory, handle.domid)))
                raw.sendall(line)
                assert b"Refused" in raw.makefile("rb").readline()
        with handle.client() as client:
            assert client.describe().devices == []


def test_guest_idle_uses_no_cpu_to_speak_of(directory: Path, backend: MiniBackend) -> None:
    """It waits for descriptors: a tenth of a second leaves no trace in its CPU time."""
    with guest(directory, 2) as handle, handle.client() as client:
        pid = client.describe().pid
        before = _cpu(pid)
        assert not threading.Event().wait(0.1)
        assert _cpu(pid) - before <= 0.02


def test_guest_ends_when_the_hypervisor_does() -> None:
    """Stopped, the hypervisor leaves no guest process behind."""
    path = Path(tempfile.mkdtemp(prefix="xbd"))
    try:
        process = start_embedded(path)
        handle = create_guest(path, "demo", [])
        process.terminate()
        assert process.wait(20) == 0
        assert handle.process is not None
        assert handle.process.wait(10) == 0
        assert [p.name for p in path.rglob("*")] == []
    finally:
        shutil.rmtree(path)


def test_guest_commands_do_the_whole_round(
    directory: Path, backend: MiniBackend, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """create, list, io, dd both ways, attach, detach, reboot, destroy by the command line."""

    def xenbackd(*arguments: str) -> str:
        assert main(["--embedded-dir", str(directory), "guest", *arguments]) == 0
        return capsys.readouterr().out

    assert "xvda  Connected" in xenbackd("create", "cli", "--disk", "/x,ro", "--memory", "32")
    try:
        [listed] = json.loads(xenbackd("list", "--json"))
        assert (listed["name"], listed["devices"][0]["vdev"]) == ("cli", "xvda")
        assert "cli" in xenbackd("list")
        load = ["--bs", "8k", "--iodepth", "4", "--total", "256k", "--verify"]
        figures = json.loads(xenbackd("io", "cli", "xvda", "--rw", "randrw", *load, "--json"))
        assert figures["ok"]
        assert figures["read_bytes"] + figures["write_bytes"] == 256 * 1024
        assert "p99.9" in xenbackd("io", "cli", "xvda", "--rw", "read", "--total", "64k")
        source, target = tmp_path / "in", tmp_path / "out"
        source.write_bytes(os.urandom(5000))
        xenbackd("dd", "cli", "xvda", "--from", str(source), "--seek", "4k")
        xenbackd("dd", "cli", "xvda", "--to", str(target), "--skip", "4k", "--count", "5120")
        assert target.read_bytes() == source.read_bytes() + bytes(120)
        assert "attached xvdb" in xenbackd("attach", "cli", "--disk", "/y")
        assert "2 disks connected again" in xenbackd("reboot", "cli")
        assert "detached xvdb" in xenbackd("detach", "cli", "xvdb")
    finally:
        xenbackd("destroy", "cli")
    assert "no guests" in xenbackd("list")


def test_guest_command_wrong_content_is_exit_code_1(
    directory: Path, backend: MiniBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    """Figures are printed, and one line says what is wrong and where."""
    with guest(directory) as handle:
        io = ["--embedded-dir", str(directory), "guest", "io", "demo", "xvda", "--verify"]
        assert main([*io, "--rw", "write", "--total", "64k"]) == 0
        backend.disk(handle.domid).data[512:516] = b"oops"
        assert main([*io, "--rw", "read", "--total", "64k"]) == 1
        assert "sector 0, byte 512: torn" in capsys.readouterr().err


def test_guest_example_of_the_documentation_runs(directory: Path) -> None:
    """docs/writing-guests.md is what it says: its program runs as it stands there."""
    text = (DOCS / "writing-guests.md").read_text()
    [program] = [part.split("```")[0] for part in text.split("```python\n")[1:]][:1]
    with MiniBackend(directory), tempfile.TemporaryDirectory(prefix="xbd") as place:
        script = Path(place) / "guest.py"
        script.write_text(program)
        outcome = runpy.run_path(str(script))["main"](directory)
    assert outcome == "answered with status -1; the disk works on"


def _in_use(client: GuestClient) -> bool:
    try:
        RemoteDisk(client, "xvda").flush()
    except HostError as error:
        return "in use" in str(error)
    return False


def _cpu(pid: int) -> float:
    """Seconds of CPU time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _xenstored(directory: Path) -> int:
    """Process id of this hypervisor's xenstored."""
    return int((directory / "xenstored.pid").read_text())


def _kill(pid: int) -> None:
    """SIGKILL, and wait until it is dead."""
    descriptor = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        assert select.select([descriptor], [], [], 10)[0]
    finally:
        os.close(descriptor)
