# SPDX-License-Identifier: MIT
"""The block script as libxl runs it, with Debian's xenstore tools on the embedded xenstored."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedded.xenstored.launch import start_xenstored
from shared.xenstore.blocking import BlockingXenstore
from tests.root import ROOT

SCRIPT = ROOT / "worker/devices/block/xenbackd-block"
BACKEND = "/local/domain/0/backend/vbd/5/51712"

pytestmark = pytest.mark.skipif(
    shutil.which("xenstore-read") is None, reason="xenstore-utils is not installed"
)


class Disk:
    """A backend directory that libxl has written and a supervisor has taken up."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.image = directory / "disk image.img"
        self.image.write_bytes(bytes(512))
        self.xenstore = BlockingXenstore(directory / "socket", timeout=20)
        self.write("type", "phy")
        self.write("params", str(self.image))
        self.write("hotplug-status", "connected")

    def write(self, name: str, value: str) -> None:
        """Write a node of the backend directory."""
        self.xenstore.write(f"{BACKEND}/{name}", value)

    def path(self) -> bytes | None:
        """Where libxl would find the disk itself."""
        return self.xenstore.read_or_none(f"{BACKEND}/physical-device-path")

    def run(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run the script with libxl's environment."""
        environment = {
            "XENSTORED_PATH": str(self.directory / "socket"),
            "PATH": os.environ["PATH"],
            "script": str(SCRIPT),
            "XENBUS_TYPE": "vbd",
            "XENBUS_PATH": BACKEND,
            "XENBUS_BASE_PATH": "backend",
        }
        return subprocess.run(
            [SCRIPT, *arguments],
            env=environment | changes,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def disk() -> Iterator[Disk]:
    """A disk on a xenstored; removed afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="xbd"))
    daemon = start_xenstored(directory)
    made = Disk(directory)
    yield made
    made.xenstore.close()
    daemon.kill()
    daemon.wait()
    shutil.rmtree(directory)


def test_block_script_add_says_where_the_disk_is(disk: Disk) -> None:
    """pygrub reads the kernel from there; blanks in the path survive."""
    assert disk.run("add").returncode == 0
    assert disk.path() == str(disk.image).encode()


def test_block_script_add_drops_a_format_prefix(disk: Disk) -> None:
    """As the block backend does."""
    disk.write("params", f"raw:{disk.image}")

    assert disk.run("add").returncode == 0
    assert disk.path() == str(disk.image).encode()


def test_block_script_add_of_a_tap_disk_names_no_path(disk: Disk) -> None:
    """There libxl would take it for the socket of an NBD server."""
    disk.write("type", "tap")

    assert disk.run("add").returncode == 0
    assert disk.path() is None


def test_block_script_add_of_a_failed_disk_repeats_the_reason(disk: Disk) -> None:
    """What the supervisor has written for libxl."""
    disk.write("hotplug-status", "error")
    disk.write("hotplug-error", "image: /srv/x: No such file or directory")
    done = disk.run("add")

    assert (done.returncode, disk.path()) == (1, None)
    assert "image: /srv/x: No such file or directory" in done.stderr


@pytest.mark.parametrize("params", ["/no/such/image", "relative.img", "iqn.2001-04:target"])
def test_block_script_add_of_what_is_no_file_fails(disk: Disk, params: str) -> None:
    """libxl would hand the guest a disk and pygrub nothing."""
    disk.write("params", params)
    done = disk.run("add")

    assert (done.returncode, disk.path()) == (1, None)
    assert BACKEND in done.stderr


def test_block_script_remove_has_nothing_to_do(disk: Disk) -> None:
    """Not even a directory that is still there."""
    disk.xenstore.rm(BACKEND)

    assert disk.run("remove").returncode == 0


@pytest.mark.parametrize("arguments", [(), ("nonsense",)])
def test_block_script_other_use_is_an_error(disk: Disk, arguments: tuple[str, ...]) -> None:
    """Said, not guessed."""
    assert disk.run(*arguments).returncode == 1
    assert disk.run("add", XENBUS_PATH="").returncode == 1
