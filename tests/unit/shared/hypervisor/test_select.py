# SPDX-License-Identifier: MIT
"""Choosing the hypervisor: the supervisor resolves `auto`, the worker opens what it is told."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from config.model import Config
from shared.errors import HostError
from shared.hypervisor import libraries, select, xen
from shared.hypervisor.select import open_hypervisor
from supervisor import places
from tests.root import ROOT

MODULE = "shared.hypervisor.xen"

WITHOUT_EMBEDDED = """
import sys
from pathlib import Path
from shared.hypervisor import select
assert not any(name.split(".")[0] == "embedded" for name in sys.modules)
select.warm_up(Path("/nowhere"))
assert select.EMBEDDED in sys.modules
"""


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for /dev/xen/evtchn; absent until a test makes it."""
    path = tmp_path / "evtchn"
    monkeypatch.setattr(places, "EVTCHN_DEVICE", path)
    return path


def test_places_auto_with_neither_says_what_is_missing(device: Path, tmp_path: Path) -> None:
    """No Xen and no embedded hypervisor that was asked for: nothing is served in silence."""
    (tmp_path / "embedded/hypervisor/domain").mkdir(parents=True)
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    dead.bind(str(tmp_path / "embedded/hypervisor/domain/0"))
    dead.close()

    with pytest.raises(HostError, match=r"evtchn is not on this host and no .*--embedded"):
        places.hypervisor_of(Config(runtime_dir=str(tmp_path)))


def test_places_auto_takes_the_embedded_hypervisor_that_runs(device: Path, tmp_path: Path) -> None:
    """Somebody started `xenbackd embedded` in that directory: that is asking for it."""
    (tmp_path / "hypervisor/domain").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "hypervisor/domain/0"))
        listener.listen()
        assert places.hypervisor_of(Config(embedded_dir=str(tmp_path))) == "embedded"


def test_places_auto_with_xen_is_xen(device: Path) -> None:
    """On a Xen host `auto` never falls back; what is configured is taken as it is."""
    device.touch()

    assert places.hypervisor_of(Config()) == "xen"
    assert places.hypervisor_of(Config(hypervisor="embedded")) == "embedded"


def test_select_xen_without_its_device_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names what is missing and the way out."""
    monkeypatch.setattr(select, "EVTCHN_DEVICE", tmp_path / "evtchn")

    with pytest.raises(HostError, match=r"evtchn is not on this host.*embedded"):
        open_hypervisor("xen", "/nowhere")


def test_select_xen_with_its_device_is_xen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is opened yet: that is the worker's, after its fork."""
    monkeypatch.setattr(select, "EVTCHN_DEVICE", tmp_path)

    assert open_hypervisor("xen", "/nowhere").name == "xen"


def test_select_embedded_that_does_not_run_fails_on_opening_handles(tmp_path: Path) -> None:
    """A missing hypervisor is the host's failure, with the socket's path in the message."""
    with pytest.raises(HostError, match=r"open handle: .*hypervisor/domain/0: No such file"):
        open_hypervisor("embedded", str(tmp_path)).open_handles(grants=True)


def test_select_warm_up_without_xen_imports_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Workers on the embedded hypervisor do without Xen's native module."""
    monkeypatch.delitem(sys.modules, MODULE)
    select.warm_up(tmp_path / "evtchn")
    assert MODULE not in sys.modules


def test_select_warm_up_on_xen_opens_the_libraries(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A worker finds them open."""
    opened: list[libraries.Library] = []
    monkeypatch.setattr(xen, "load_evtchn", opened.append)
    monkeypatch.setattr(xen, "load_gnttab", opened.append)
    select.warm_up(tmp_path)
    assert opened == [libraries.EVTCHN, libraries.GNTTAB]


def test_select_warm_up_library_missing_is_left_to_the_worker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The fork server lives on, for there is nobody it could tell."""

    asked: list[object] = []

    def refuse(library: object) -> None:
        asked.append(library)
        raise HostError("open library: libxenevtchn: not here")

    monkeypatch.setattr(xen, "load_evtchn", refuse)
    select.warm_up(tmp_path)
    assert asked == [libraries.EVTCHN]


def test_select_finds_the_embedded_hypervisor_when_it_is_wanted() -> None:
    """It lives above this package: imported by its name, by the fork server for all workers."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EMBEDDED], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_select_embedded_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Xen's workers do without it; one that is told to use it says what is missing."""
    monkeypatch.setitem(sys.modules, select.EMBEDDED, None)
    select.warm_up(tmp_path / "evtchn")
    with pytest.raises(HostError, match=r"open hypervisor: embedded: .*embedded\.handles"):
        open_hypervisor("embedded", str(tmp_path))
