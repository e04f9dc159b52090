# SPDX-License-Identifier: MIT
"""Images that are not there, not whole or not allowed: said, held, and served once mended."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.control import Show, ShowReply
from shared.xenbus import XenbusState
from tests.process.lab_world import DEADLINE, SIZE, Guest, World, running_world
from worker.devices.block.guest.ring import BlockIoError

EINVAL = 22


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A running xenbackd with a neighbour."""
    with running_world() as it:
        yield it


def _missing(path: Path) -> str:
    path.unlink()
    return "No such file or directory"


def _directory(path: Path) -> str:
    path.unlink()
    path.mkdir()
    return "neither a regular file nor a block device"


def _fifo(path: Path) -> str:
    path.unlink()
    os.mkfifo(path)
    return "neither a regular file nor a block device"


def _below_a_file(path: Path) -> str:
    path.unlink()
    path.symlink_to(path / "below")
    return "Too many levels of symbolic links"


def _empty(path: Path) -> str:
    os.truncate(path, 0)
    return "0 bytes: smaller than a sector"


def _smaller_than_a_sector(path: Path) -> str:
    os.truncate(path, 511)
    return "511 bytes: smaller than a sector"


def _write_protected(path: Path) -> str:
    path.chmod(0o444)
    return "write-protected"


@pytest.mark.parametrize(
    "spoil",
    [
        _missing,
        _directory,
        _fifo,
        _below_a_file,
        _empty,
        _smaller_than_a_sector,
        _write_protected,
    ],
    ids=lambda spoil: spoil.__name__[1:],
)
def test_bad_image_is_said_and_held_until_it_is_mended(
    world: World, spoil: Callable[[Path], str]
) -> None:
    """Error node, toolstack, status, log and events name the image; `restart` tries again."""
    image = world.image()
    said = spoil(image)
    with world.untouched(), world.guest(image) as guest:
        _held(world, guest, f"image: {image}", said)
        if image.is_dir():
            image.rmdir()
        else:
            image.unlink(missing_ok=True)
        image.write_bytes(bytes(SIZE))
        _mended(world, guest)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ("", "without a medium"),
        ("qcow2:/disk.img", "format not supported; there is aio:/path"),
        ("disk.img", "format not supported"),
        ("aio:disk.img", "the path must be absolute"),
        (None, "backend node: params: missing"),
    ],
    ids=["empty", "qcow2", "relative", "aio_relative", "missing"],
)
def test_bad_params_are_said_and_mended_by_the_toolstack(
    world: World, params: str | None, said: str
) -> None:
    """What is supported stands in the message; other params are tried without being asked."""
    with world.untouched(), world.guest(image=Path("/does/not/exist")) as guest:
        node = f"{guest.backend}/params"
        _held(world, guest, "/does/not/exist")
        if params is None:
            guest.dom0.rm(node)
        else:
            guest.dom0.write(node, params)
        _held(world, guest, said)
        guest.dom0.write(node, str(world.image()))
        guest.disk.connect(DEADLINE)
        guest.works()


def test_bad_mode_of_a_protected_image_is_no_matter_for_a_readonly_disk(world: World) -> None:
    """The same image, asked for reading only, is served."""
    image = world.image()
    image.chmod(0o444)
    with world.untouched(), world.guest(image, readonly=True) as guest:
        assert guest.disk.connect(DEADLINE).readonly
        assert guest.disk.read(0, 8) == image.read_bytes()[:4096]


def test_bad_image_that_vanishes_is_served_until_its_worker_dies(world: World) -> None:
    """The open file serves on; a successor finds none, is held, and goes on where it was."""
    image = world.image()
    away = image.with_suffix(".away")
    with world.untouched(), world.guest(image) as guest:
        guest.disk.connect(DEADLINE)
        guest.works()
        image.rename(away)
        guest.works()
        guest.disk.write(64, b"before--" * 512)
        first = world.lab.wait_connected(guest.device)
        assert first.pid is not None

        os.kill(first.pid, signal.SIGKILL)
        _held(world, guest, f"image: {image}", "No such file or directory", hotplug=False)
        assert guest.dom0.read(f"{guest.backend}/state") == b"4"
        written = threading.Thread(target=guest.disk.write, args=(128, b"meanwhile" * 512))
        written.start()

        away.rename(image)
        world.restart(guest)
        written.join(DEADLINE)
        assert not written.is_alive()
        assert guest.disk.read(64, 8) == b"before--" * 512
        assert guest.disk.read(128, 9) == b"meanwhile" * 512
        after = world.lab.wait_connected(guest.device)
        assert (after.error, after.hold) == ("", "")
        assert after.generation > first.generation


def test_bad_image_that_shrinks_answers_errors_and_nothing_else_happens(world: World) -> None:
    """What is not there any more cannot be read; the worker stays, and what is there works."""
    image = world.image()
    with world.untouched(), world.guest(image) as guest:
        guest.disk.connect(DEADLINE)
        guest.works()
        before = world.lab.wait_connected(guest.device)
        os.truncate(image, SIZE // 2)
        with pytest.raises(BlockIoError):
            guest.disk.read(SIZE // 1024, 8)
        guest.works()
        after = world.lab.wait_connected(guest.device)
        assert (after.pid, after.error) == (before.pid, "")


def _held(world: World, guest: Guest, *said: str, hotplug: bool = True) -> None:
    """The operator is told, and nothing is tried again by itself."""
    world.wait_error(guest, *said, errno=EINVAL)
    status = world.lab.wait_device(guest.device, lambda now: now.hold == "config")
    assert status.pid is None
    if hotplug:
        assert guest.dom0.read(f"{guest.backend}/hotplug-status") == b"error"
        assert said[0] in guest.dom0.read(f"{guest.backend}/hotplug-error").decode()
        assert status.backend == "Initialising"
    shown = world.ask(Show(device=guest.device), ShowReply)
    assert all(part in shown.device.error for part in said)


def _mended(world: World, guest: Guest) -> None:
    """`restart` brings the device up, and the error node goes."""
    world.restart(guest)
    guest.wait_backend(XenbusState.INIT_WAIT)
    guest.disk.connect(DEADLINE)
    guest.works()
    error = f"/local/domain/0/error/backend/{guest.device}/error"
    world.lab.wait(lambda: guest.dom0.read_or_none(error) is None, DEADLINE, "error to go")
    assert guest.dom0.read(f"{guest.backend}/hotplug-status") == b"connected"
    assert guest.dom0.read_or_none(f"{guest.backend}/hotplug-error") is None
    assert world.lab.wait_connected(guest.device).error == ""
