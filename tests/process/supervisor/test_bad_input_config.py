# SPDX-License-Identifier: MIT
"""Configuration that is wrong: refused with its line, and whoever serves goes on as before."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from embedded.toolstack import backend_path
from shared.control import Done, Reload
from supervisor.cli.client import RefusedError
from tests.process.lab_world import DEADLINE, World, running_world
from worker.devices.block.guest.disk import DiskSpec

CONFIG_ERROR = 78

BAD = {
    "no_yaml": ("types:\n  vbd: {handler: block\n", 3, ""),
    "tabs": ("types:\n\tvbd: {}\n", 2, ""),
    "list": ("- types\n", 1, ""),
    "unknown_key": ("types:\n  vbd:\n    handler: block\n    colour: red\n", 4, "colour"),
    "duplicate_key": ("types:\n  vbd: {handler: block}\n  vbd: {handler: block}\n", 3, "vbd"),
    "unknown_handler": ("types:\n  vbd: {handler: block}\n  vkbd: {handler: keys}\n", 3, "keys"),
    "unknown_option": ("types:\n  vbd:\n    handler: block\n    options: {spin: 1}\n", 4, "spin"),
    "wrong_type": ("limits:\n  devices_per_domain: many\n", 2, "devices_per_domain"),
    "out_of_range": ("timeouts:\n  beat: -1\n", 2, "beat"),
}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A running xenbackd with a neighbour."""
    with running_world() as it:
        yield it


@pytest.mark.parametrize(("text", "line", "word"), BAD.values(), ids=BAD.keys())
def test_bad_config_is_refused_by_reload_which_serves_on(
    world: World, text: str, line: int, word: str
) -> None:
    """Reload says file, line and key, and nothing has changed."""
    with world.untouched(), _written(world, text):
        before = world.lab.status().types
        with pytest.raises(RefusedError) as refused:
            world.ask(Reload(), Done)
        assert refused.value.exit_code == CONFIG_ERROR
        assert f"{world.lab.config_path}:{line}:" in str(refused.value)
        assert word in str(refused.value)
        assert world.lab.status().types == before
        with world.guest() as guest:
            guest.disk.connect(DEADLINE)
            guest.works()


def test_bad_config_is_said_by_the_command(world: World) -> None:
    """`xenbackd reload` ends with 78 and says what the supervisor said."""
    text, line, word = BAD["unknown_key"]
    with world.untouched(), _written(world, text):
        done = world.lab.run("reload")
    assert done.returncode == CONFIG_ERROR
    assert f"{world.lab.config_path}:{line}:" in done.stderr
    assert word in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["no_yaml", "unknown_handler"])
def test_bad_config_is_refused_by_serve(world: World, name: str) -> None:
    """It does not begin: exit status 78, file and line, no second supervisor."""
    text, line, word = BAD[name]
    path = world.lab.directory / "bad.yaml"
    path.write_text(text)
    with world.untouched():
        done = world.lab.run("serve", "-c", str(path))
    assert done.returncode == CONFIG_ERROR
    assert f"{path}:{line}:" in done.stderr
    assert word in done.stderr


def test_bad_config_is_refused_on_sighup(world: World) -> None:
    """Nobody waits for an answer to a signal: the log says it."""
    with world.untouched(), _written(world, "types: [\n"):
        assert world.lab.supervisor is not None
        world.lab.supervisor.send_signal(signal.SIGHUP)
        world.lab.wait(
            lambda: "the old configuration stays" in world.lab.log(), DEADLINE, "refusal"
        )


def test_unknown_device_type_is_left_alone(world: World) -> None:
    """A device below a type nobody enabled is not touched; the same guest's disk is served."""
    spec = DiskSpec(path=str(world.image()), vdev="xvdb", kind="vbd3")
    with world.untouched(), world.guest() as guest:
        backend = backend_path(guest.domain.domid, "vbd3", spec.devid)
        guest.dom0.write(f"{backend}/frontend", f"{guest.frontend}/x")
        guest.dom0.write(f"{backend}/online", b"1")
        guest.dom0.write(f"{backend}/state", b"1")
        guest.disk.connect(DEADLINE)
        guest.works()
        assert guest.dom0.read(f"{backend}/state") == b"1"
        assert [one.device for one in world.lab.status().devices if "vbd3" in one.device] == []


@contextmanager
def _written(world: World, text: str) -> Iterator[None]:
    """The configuration file has this content for a while."""
    good = world.lab.config_path.read_text()
    world.lab.config_path.write_text(text)
    try:
        yield
    finally:
        world.lab.config_path.write_text(good)
