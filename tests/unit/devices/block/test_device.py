# SPDX-License-Identifier: MIT
"""The block type's Python half: params, images, nodes in and out."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.errors import BackendBug, ConfigError, GuestFault, HostError
from shared.messages import Nodes
from tests.fakes.descriptors import descriptors
from tests.fakes.handles import FakeHandles, make_context
from tests.fakes.hv import FakeHypervisor
from worker.devices.block.about import BlockOptions
from worker.devices.block.backend import BlockDevice
from worker.devices.block.image import open_image, parse_params
from worker.devices.block.native._block import lib

FRONTEND: Nodes = {"ring-ref": b"8", "event-channel": b"5"}
Make = Callable[..., BlockDevice]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image of 100 sectors and a bit."""
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(100 * 512 + 17))
    return path


@pytest.fixture
def handles() -> Iterator[FakeHandles]:
    """Handles, with ring pages granted as 8..23."""
    hypervisor = FakeHypervisor(64)
    for page in range(16):
        hypervisor.grant(8 + page, page)
    yield FakeHandles(hypervisor)
    hypervisor.close()


@pytest.fixture
def make(handles: FakeHandles) -> Iterator[Make]:
    """Makes block devices and frees them."""
    made: list[BlockDevice] = []

    def make_device(**options: Any) -> BlockDevice:
        made.append(BlockDevice(make_context(handles, BlockOptions(**options), "vbd")))
        return made[-1]

    yield make_device
    for device in made:
        device.free()


def backend(image: Path, **nodes: str) -> Nodes:
    """The directory as libxl writes it."""
    text = {"params": f"aio:{image}", "mode": "w", "device-type": "disk", "removable": "0"}
    return {name.replace("_", "-"): value.encode() for name, value in {**text, **nodes}.items()}


@pytest.mark.parametrize("prefix", ["aio:", "raw:", "file:", ""])
def test_block_params_of_raw_images_give_the_path(prefix: str) -> None:
    """What libxl writes for a raw image, and a bare path."""
    assert parse_params(f"{prefix}/a/b:c") == "/a/b:c"


@pytest.mark.parametrize(
    "params", ["", "qcow2:/a", "vhd:/a", "relative", "aio:", "aio:relative", ":/a", "aio:/a\0b"]
)
def test_block_params_of_anything_else_are_a_config_error(params: str) -> None:
    """Formats that are not supported, and what is no path."""
    with pytest.raises(ConfigError, match=r"^params: "):
        parse_params(params)


def test_block_params_unknown_format_names_the_supported_ones() -> None:
    """The operator is told what there is."""
    with pytest.raises(ConfigError, match=r"aio:/path, raw:/path, file:/path and a bare path"):
        parse_params("qcow2:/a")


def test_s12_block_init_says_what_the_disk_can(make: Make, image: Path) -> None:
    """The feature nodes stand in what `init` returns."""
    granularity = image.stat().st_blksize

    assert make().init(backend(image)) == {
        "feature-flush-cache": b"1",
        "feature-persistent": b"1",
        "feature-discard": b"1",
        "discard-granularity": b"%d" % granularity,
        "discard-alignment": b"0",
        "discard-secure": b"0",
        "max-ring-page-order": b"4",
    }


@pytest.mark.parametrize(
    ("options", "nodes", "expected"),
    [
        ({"discard": False}, {}, {"feature-discard": b"0"}),
        ({}, {"discard_enable": "0"}, {"feature-discard": b"0"}),
        ({}, {"mode": "r"}, {"feature-discard": b"0"}),
        ({"flush": False}, {}, {"feature-flush-cache": b"0"}),
        ({"grants": "copy"}, {}, {"feature-persistent": b"0"}),
        ({"max_ring_page_order": 0}, {}, {"max-ring-page-order": b"0"}),
    ],
)
def test_block_init_features_follow_options_and_nodes(
    make: Make, image: Path, options: dict[str, Any], nodes: dict[str, str], expected: Nodes
) -> None:
    """What is switched off is said to be off, and nothing about it is promised."""
    features = make(**options).init(backend(image, **nodes))

    assert features.items() >= expected.items()
    if features["feature-discard"] == b"0":
        assert not any(name.startswith("discard-") for name in features)


@pytest.mark.parametrize(
    ("nodes", "info"),
    [
        ({}, 0),
        ({"mode": "r"}, 4),
        ({"mode": "r", "device_type": "cdrom", "removable": "1"}, 7),
        ({"removable": "1"}, 2),
    ],
)
def test_s13_block_initialise_says_size_and_kind(
    make: Make, image: Path, nodes: dict[str, str], info: int
) -> None:
    """Sectors of 512 bytes, whole ones only; info has the flags of blkif.h."""
    device = make()
    device.init(backend(image, **nodes))

    assert device.initialise(backend(image, **nodes), FRONTEND, resume=False) == {
        "sectors": b"100",
        "sector-size": b"512",
        "physical-sector-size": b"512",
        "info": b"%d" % info,
    }


BAD_BACKEND = [
    ({"params": "raw:/nowhere/x"}, "No such file or directory"),
    ({"params": "raw:/dev/null"}, "neither a regular file nor a block device"),
    ({"params": "raw:/"}, "neither a regular file nor a block device"),
    ({"mode": "x"}, "backend node: mode"),
    ({"device_type": "floppy"}, "backend node: device-type"),
    ({"discard_enable": "2"}, "backend node: discard-enable"),
    ({"removable": "yes"}, "backend node: removable"),
]


@pytest.mark.parametrize(("nodes", "text"), BAD_BACKEND)
def test_block_init_wrong_is_a_config_error_and_opens_nothing(
    make: Make, image: Path, nodes: dict[str, str], text: str
) -> None:
    """What the operator must change is named; no descriptor stays open."""
    device = make()
    before = descriptors()

    with pytest.raises(ConfigError, match=text):
        device.init(backend(image, **nodes))
    assert descriptors() == before


@pytest.mark.parametrize("missing", ["params", "mode"])
def test_block_init_missing_node_is_named(make: Make, image: Path, missing: str) -> None:
    """Nodes libxl always writes must be there."""
    nodes = backend(image)
    del nodes[missing]
    with pytest.raises(ConfigError, match=f"backend node: {missing}: missing"):
        make().init(nodes)


@pytest.mark.parametrize("size", [0, 1, 511])
def test_block_image_smaller_than_a_sector_is_a_config_error(tmp_path: Path, size: int) -> None:
    """A disk has at least one sector."""
    path = tmp_path / "small"
    path.write_bytes(bytes(size))
    with pytest.raises(ConfigError, match=f"{size} bytes: smaller than a sector"):
        open_image(str(path), writable=False, direct_io=False, directories=[])


def test_block_image_read_only_asked_for_writing_is_a_config_error(image: Path) -> None:
    """A write-protected file is not served as a writable disk, not even by root."""
    image.chmod(0o444)
    with pytest.raises(ConfigError, match=r"Permission denied|write-protected"):
        open_image(str(image), writable=True, direct_io=False, directories=[])
    os.close(open_image(str(image), writable=False, direct_io=False, directories=[]).fd)


def test_block_image_socket_or_fifo_does_not_hang(tmp_path: Path) -> None:
    """Special files are refused without being opened for use."""
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        here = os.open(".", os.O_RDONLY)
        os.chdir(tmp_path)
        try:
            sock.bind("socket")
        finally:
            os.fchdir(here)
            os.close(here)
        for name in ("fifo", "socket"):
            with pytest.raises(ConfigError, match="neither a regular file"):
                open_image(str(tmp_path / name), writable=True, direct_io=False, directories=[])


def test_block_image_outside_its_directories_is_refused(tmp_path: Path, image: Path) -> None:
    """Links are resolved: what counts is where the file really lies."""
    allowed = tmp_path / "images"
    allowed.mkdir()
    (allowed / "link").symlink_to(image)
    (allowed / "own").write_bytes(bytes(512))
    (tmp_path / "images-not").mkdir()
    (tmp_path / "images-not" / "x").write_bytes(bytes(512))
    (tmp_path / "way-in").symlink_to(allowed / "own")
    options: dict[str, Any] = {
        "writable": False,
        "direct_io": False,
        "directories": [str(allowed)],
    }

    for path in (allowed / "link", allowed / ".." / "disk.img", tmp_path / "images-not" / "x"):
        with pytest.raises(ConfigError, match="outside"):
            open_image(str(path), **options)
    for path in (allowed / "own", tmp_path / "way-in"):
        os.close(open_image(str(path), **options).fd)


BAD_FRONTEND = [
    ({"ring-page-order": b"0", "ring-ref": None}, "frontend node: ring-ref: missing"),
    ({"ring-page-order": b"1"}, "frontend node: ring-ref0: missing"),
    ({"ring-page-order": b"1", "ring-ref0": b"8"}, "frontend node: ring-ref1: missing"),
    (
        {"ring-page-order": b"1", "ring-ref0": b"8", "ring-ref1": b"8"},
        "frontend node: ring-ref1: 8 is given twice",
    ),
    ({"ring-page-order": b"5"}, r"frontend node: ring-page-order: 5 is not in 0\.\.4"),
    ({"event-channel": None}, "frontend node: event-channel: missing"),
    ({"event-channel": b"6"}, "port 6"),
    ({"ring-ref": b"4000"}, "not granted"),
    ({"protocol": b"sparc"}, "frontend node: protocol: 'sparc' is none of"),
    ({"feature-persistent": b"yes"}, "frontend node: feature-persistent"),
]


@pytest.mark.parametrize(("changes", "text"), BAD_FRONTEND)
def test_s13_block_initialise_wrong_is_a_guest_fault_and_keeps_nothing(
    make: Make, handles: FakeHandles, image: Path, changes: dict[str, bytes | None], text: str
) -> None:
    """Every node is held against its rule; what was taken before it failed is given back."""
    device = make()
    device.init(backend(image))
    frontend = {name: value for name, value in {**FRONTEND, **changes}.items() if value is not None}

    with pytest.raises(GuestFault, match=text):
        device.initialise(backend(image), frontend, resume=False)
    assert handles.hypervisor.mapped == {}
    assert handles.channels.bound == handles.channels.unbound
    device.initialise(backend(image), FRONTEND, resume=False)


@pytest.mark.parametrize("order", [0, 1, 4])
def test_block_initialise_multi_page_ring_maps_all_pages(
    make: Make, handles: FakeHandles, image: Path, order: int
) -> None:
    """`ring-page-order` with `ring-ref%u`, order 0 included."""
    device = make()
    device.init(backend(image))
    frontend: Nodes = {"ring-page-order": b"%d" % order, "event-channel": b"5"}
    frontend |= {f"ring-ref{i}": b"%d" % (8 + i) for i in range(1 << order)}
    device.initialise(backend(image), frontend, resume=False)

    assert list(handles.hypervisor.mapped.values()) == [1 << order]


def test_s15_block_disconnect_gives_everything_back_once(
    make: Make, handles: FakeHandles, image: Path
) -> None:
    """Ring and channel; a second disconnect finds nothing to do; init works again.

    The image stays open until the device is over, which is once.
    """
    before = descriptors()
    device = make()
    device.init(backend(image))
    device.initialise(backend(image), FRONTEND, resume=False)
    device.disconnect()
    device.disconnect()

    assert handles.hypervisor.mapped == {}
    assert len(handles.channels.unbound) == 1
    assert descriptors() == before + 1
    device.init(backend(image))
    device.free()
    assert descriptors() == before


def test_block_initialise_without_image_is_our_bug(make: Make, image: Path) -> None:
    """The life cycle never asks for that."""
    with pytest.raises(BackendBug, match="not after init"):
        make().initialise(backend(image), FRONTEND, resume=False)


def test_block_initialise_on_a_forged_ring_is_a_guest_fault(
    make: Make, handles: FakeHandles, image: Path
) -> None:
    """Indices that cannot be are found at the attach, and say what they are."""
    handles.hypervisor.page(0)[0:4] = (999).to_bytes(4, "little")
    device = make()
    device.init(backend(image))
    with pytest.raises(GuestFault, match="req_prod 999 makes no sense: 32 slots"):
        device.initialise(backend(image), FRONTEND, resume=True)
    assert handles.hypervisor.mapped == {}


def test_block_direct_io_opens_or_says_why_not(image: Path) -> None:
    """A file system without O_DIRECT is the operator's to know; with it the unit is right."""
    try:
        opened = open_image(str(image), writable=True, direct_io=True, directories=[])
    except ConfigError as error:
        assert "direct_io" in str(error)  # noqa: PT017 - both outcomes are right
    else:
        os.close(opened.fd)
        assert opened.sector_size in (512, 4096)
        assert opened.sectors * 512 % opened.sector_size == 0


class DeadDisk:
    """The native code with a disk that never answers; `waits` are the times it was given."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.waits: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def blk_detach(self, _native: Any, timeout_ms: int) -> int:
        """Give up when the time is over."""
        self.waits.append(timeout_ms)
        return -errno.ETIMEDOUT


def test_block_dead_disk_has_most_of_the_drain_and_is_not_waited_for_twice(
    make: Make, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first disconnect waits; the one of `free` only looks, so the process can end."""
    device = make()
    device.drain = 30.0
    device.init(backend(image))
    with monkeypatch.context() as patch:
        dead = DeadDisk(lib)
        patch.setattr("worker.devices.block.backend.lib", dead)
        for _ in range(2):
            with pytest.raises(HostError, match="disconnect: vbd/3/51712: Connection timed out"):
                device.disconnect()
    assert dead.waits == [24_000, 0]
