# SPDX-License-Identifier: MIT
"""A guest with devices of two types, one of another distribution: xenbackd knows neither's name.

The type `echo` is in tests/fakes/echo. Here it is installed, enabled in YAML, served by a worker
of its own and used by a guest that has a disk as well, all by the commands a user types.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import msgspec
import pytest

from bench.lab import DEFAULT_CONFIG, Lab
from embedded.guest.client import GuestClient
from embedded.guest.control import DeviceReply, DeviceRequest, socket_path
from shared.errors import ConfigError
from tests.fakes.installed_distribution import environment_with

TYPES = {**DEFAULT_CONFIG["types"], "vecho": {"handler": "echo"}}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of an environment with the type `echo`."""
    place = tmp_path_factory.mktemp("environment")
    return str(environment_with(place, "echo", "tests.fakes.echo.about:TYPE"))


@pytest.fixture(scope="module")
def lab(python: str) -> Iterator[Lab]:
    """A running xenbackd with the type `echo`, and a guest with an echo and a disk."""
    with Lab({**DEFAULT_CONFIG, "types": TYPES}, python=python) as lab:
        image = lab.images / "disk.img"
        image.write_bytes(os.urandom(1 << 20))
        lab.must("guest", "create", "demo", "--disk", str(image), "--echo", "hello")
        yield lab


def devices(lab: Lab) -> dict[str, dict[str, object]]:
    """The guest's devices as JSON, by name."""
    [guest] = json.loads(lab.must("guest", "list", "--json"))
    return {device["name"]: device for device in guest["devices"]}


def test_guest_types_two_types_are_connected_each_by_its_own_worker(lab: Lab) -> None:
    """The disk and the echo of one guest; what their types say of them stands side by side."""
    found = devices(lab)
    assert found["xvda"]["state"] == found["0"]["state"] == "Connected"
    assert (found["xvda"]["size"], found["0"]["greeting"]) == (1 << 20, "hello")

    disk = lab.wait_connected("vbd/1/51712")
    echo = lab.wait_connected("vecho/1/0")
    assert disk.pid != echo.pid

    table = lab.must("guest", "list")
    assert "SIZE" in table
    assert "GREETING" in table


def test_guest_types_each_command_reaches_its_own_device(lab: Lab) -> None:
    """The echo's command goes through its ring, the disk's through the other one."""
    assert lab.must("guest", "say", "demo", "0", "quiet, please") == "QUIET, PLEASE\n"
    figures = json.loads(
        lab.must("guest", "io", "demo", "xvda", "--rw", "randrw", "--total", "64k", "--json")
    )
    assert figures["ok"]

    for name, text in (("xvda", "echo 'xvda': expected a number"), ("7", "it has no such echo")):
        wrong = lab.run("guest", "say", "demo", name, "hello")
        assert (wrong.returncode, wrong.stdout) == (78, "")
        assert text in wrong.stderr


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        ("vecho", b'{"text":3}', "Expected `str`, got `int`"),
        ("vecho", b'{"op":"FlushDisk"}', "unknown field `op`"),
        ("vbd", b'{"text":"hello"}', "missing required field `op`"),
        ("vnone", b'{"text":"hello"}', "this guest has no driver for it"),
    ],
)
def test_guest_types_request_that_is_none_of_the_types_is_refused(
    lab: Lab, kind: str, body: bytes, text: str
) -> None:
    """Only the type decodes the body, by its closed schema; the guest goes on."""
    name = "xvda" if kind == "vbd" else "0"
    with GuestClient(socket_path(lab.embedded_dir, 1)) as client:
        client.send(DeviceRequest(kind, name, msgspec.Raw(body)), 10)
        with pytest.raises(ConfigError, match=text):
            client.expect(DeviceReply)
    assert lab.must("guest", "say", "demo", "0", "still there") == "STILL THERE\n"


def test_guest_types_worker_that_is_killed_takes_nothing_of_the_other_type_along(lab: Lab) -> None:
    """SIGKILL to the echo's worker: a successor answers, and the disk's is the same process."""
    disk = lab.wait_connected("vbd/1/51712")
    echo = lab.wait_connected("vecho/1/0")
    assert echo.pid is not None
    os.kill(echo.pid, signal.SIGKILL)
    lab.wait_device("vecho/1/0", lambda one: one.pid != echo.pid and one.phase == "serving")

    assert lab.must("guest", "say", "demo", "0", "again") == "AGAIN\n"
    assert lab.wait_connected("vbd/1/51712").pid == disk.pid


def test_guest_types_reboot_attach_and_detach_concern_each_type(lab: Lab) -> None:
    """All devices connect again; a second echo comes and goes, and the disk stays."""
    assert "1 disk, 1 echo connected again" in lab.must("guest", "reboot", "demo")
    assert "attached 1" in lab.must("guest", "attach", "demo", "--echo", "second")
    assert lab.must("guest", "say", "demo", "1", "two") == "TWO\n"
    assert "detached vecho/1" in lab.must("guest", "detach", "demo", "vecho/1")
    lab.wait(lambda: sorted(devices(lab)) == ["0", "xvda"], 20, "the second echo to be gone")
    assert lab.must("guest", "say", "demo", "0", "one") == "ONE\n"


def test_guest_types_nodes_are_those_of_the_type_and_of_every_device(lab: Lab) -> None:
    """The toolstack writes the type's nodes beside its own, where libxl would."""
    with lab.xenstore() as xenstore:
        back, front = "/local/domain/0/backend/vecho/1/0", "/local/domain/1/device/vecho/0"
        assert xenstore.read(f"{back}/name") == b"hello"
        assert xenstore.read(f"{back}/frontend") == front.encode()
        assert xenstore.read(f"{front}/loud") == b"1"
        assert xenstore.read("/libxl/1/device/vecho/0/backend") == back.encode()
        assert sorted(xenstore.directory("/local/domain/1/device")) == ["vbd", "vecho"]


def test_guest_types_other_distribution_is_found_by_its_entry_point(python: str) -> None:
    """Where it is not installed the command line does not know the type; where it is, it does."""
    without, with_it = Lab(), Lab(python=python)
    try:
        assert "--echo" not in without.must("guest", "create", "--help")
        assert "--echo" in with_it.must("guest", "create", "--help")
        assert "say something to an echo" in with_it.must("guest", "--help")
    finally:
        without.remove()
        with_it.remove()
