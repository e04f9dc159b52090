# SPDX-License-Identifier: MIT
"""The block frontend against a small backend of its own, on a real embedded hypervisor."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from embedded.domain import Domain
from embedded.hypercalls import Hypercalls
from embedded.launch import start_embedded
from embedded.toolstack import (
    create_domain,
    detach_device,
    remove_domain,
    request_close,
    wait_backend_state,
)
from shared.errors import HostError
from shared.xenbus import XenbusState
from shared.xenstore.blocking import BlockingXenstore
from tests.fakes.block.guest_backend import MiniBackend
from worker.devices.block.guest.blkfront import BlockFrontend
from worker.devices.block.guest.disk import DiskSpec
from worker.devices.block.guest.load import LoadConfig
from worker.devices.block.guest.toolstack import attach_disk


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A running embedded hypervisor."""
    path = Path(tempfile.mkdtemp(prefix="xbd"))
    process = start_embedded(path)
    yield path
    process.terminate()
    process.wait(20)
    shutil.rmtree(path)


@pytest.fixture
def dom0(directory: Path) -> Iterator[BlockingXenstore]:
    """A privileged connection."""
    with BlockingXenstore(directory / "xenstored" / "socket") as xs:
        yield xs


@contextmanager
def guest(
    dom0: BlockingXenstore, directory: Path, *, pages: int = 4096, disks: int = 1, **options: Any
) -> Iterator[tuple[Domain, list[BlockFrontend]]]:
    """A domain in this process with its frontends, not connected yet."""
    with Domain.create(directory, "test", pages) as domain:
        create_domain(dom0, domain.domid, "test", pages * 4)
        for index in range(disks):
            attach_disk(dom0, domain.domid, DiskSpec(path="/x", vdev=f"xvd{chr(97 + index)}"))
        path = directory / "xenstored" / "domain" / str(domain.domid)
        with BlockingXenstore(path) as xs:
            frontends = [
                BlockFrontend(domain, xs, 51712 + 16 * index, **options) for index in range(disks)
            ]
            yield domain, frontends
            for frontend in frontends:
                frontend.release()
    remove_domain(dom0, domain.domid)


def test_blkfront_connect_reads_the_disks_figures(directory: Path, dom0: BlockingXenstore) -> None:
    """Both ends end up Connected, with the ring the backend offered."""
    with (
        MiniBackend(directory, size=1 << 20) as backend,
        guest(dom0, directory) as (domain, [disk]),
    ):
        info = disk.connect()
        assert (info.sectors, info.sector_size, info.slots) == (2048, 512, 512)
        assert info.persistent
        assert info.flush
        assert (disk.state, disk.backend_state) == (XenbusState.CONNECTED,) * 2
        assert backend.disk(domain.domid).protocols == ["x86_64-abi"]


@pytest.mark.parametrize("protocol", ["x86_64-abi", "x86_32-abi", "arm-abi"])
@pytest.mark.parametrize("persistent", [True, False])
def test_blkfront_data_goes_through_in_every_layout(
    directory: Path, dom0: BlockingXenstore, protocol: str, persistent: bool
) -> None:
    """Written, flushed, read back, and found in the backend's disk."""
    options: dict[str, Any] = {"protocol": protocol, "persistent": persistent}
    with (
        MiniBackend(directory, order=1) as backend,
        guest(dom0, directory, **options) as (domain, [disk]),
    ):
        assert disk.connect().persistent == persistent
        data = os.urandom(512 * 333)
        disk.write(7, data)
        disk.flush()
        assert disk.read(7, 333) == data
        assert backend.disk(domain.domid).data[7 * 512 : 7 * 512 + len(data)] == data


@pytest.mark.parametrize("order", [0, 2])
def test_blkfront_ring_is_no_larger_than_offered(
    directory: Path, dom0: BlockingXenstore, order: int
) -> None:
    """A single page is published under its old name, more pages by their number."""
    with MiniBackend(directory, order=order), guest(dom0, directory) as (_, [disk]):
        assert disk.connect().slots == 32 << order
        names = dom0.directory(disk.path)
        assert ("ring-ref" in names) == (order == 0)
        assert ("ring-ref3" in names) == (order == 2)


def test_blkfront_load_with_verification_finds_nothing_wrong(
    directory: Path, dom0: BlockingXenstore
) -> None:
    """Across the wrap-around of the indices, in both grant modes."""
    for persistent in (True, False):
        options: dict[str, Any] = {"persistent": persistent, "first_index": 2**32 - 50}
        with MiniBackend(directory), guest(dom0, directory, **options) as (_, [disk]):
            disk.connect()
            result = disk.run_load(LoadConfig(rw="randrw", depth=16, total=600 * 4096, verify=True))
            assert result.ok
            assert result.verified > 200


def test_s16_blkfront_reconnect_gets_a_new_connection(
    directory: Path, dom0: BlockingXenstore
) -> None:
    """Closed in order and connected again, as after a reboot; the content is still there."""
    with MiniBackend(directory) as backend, guest(dom0, directory) as (domain, [disk]):
        disk.connect()
        disk.write(0, b"before--" * 64)
        disk.reconnect()
        assert disk.read(0, 1) == b"before--" * 64
        assert len(backend.disk(domain.domid).protocols) == 2
        assert disk.leaked_pages == 0


def test_s16_blkfront_restart_without_closing_connects_again(
    directory: Path, dom0: BlockingXenstore
) -> None:
    """As after a crash of the guest's kernel; the old pages come back once they are let go."""
    with MiniBackend(directory), guest(dom0, directory) as (_, [disk]):
        disk.connect()
        disk.write(5, b"x" * 512)
        disk.restart()
        disk.connect()
        assert disk.read(5, 1) == b"x" * 512
        disk.reclaim()
        assert disk.leaked_pages == 0


def test_s15_blkfront_backend_that_closes_is_followed(
    directory: Path, dom0: BlockingXenstore
) -> None:
    """Asked to close by the toolstack: Closed on both ends, no page and no port left."""
    with MiniBackend(directory), guest(dom0, directory) as (domain, [disk]):
        disk.connect()
        disk.read(0, 100)
        request_close(dom0, disk.backend_path)
        while disk.advance() is not XenbusState.CLOSED:
            assert disk._xs.wait_event(10) is not None
        assert wait_backend_state(dom0, disk.backend_path, frozenset({XenbusState.CLOSED}), 10)
        disk.reclaim()
        assert disk.leaked_pages == 0
        with pytest.raises(HostError, match="not connected"):
            disk.read(0, 1)
        with Hypercalls(directory) as hypercalls:
            stats = hypercalls.stats().domains[domain.domid]
        assert (stats.ports, stats.mapped) == (0, 0)


def test_blkfront_unplugged_disk_is_forgotten(directory: Path, dom0: BlockingXenstore) -> None:
    """Its directory is gone: nothing is written there any more."""
    with MiniBackend(directory), guest(dom0, directory) as (domain, [disk]):
        disk.connect()
        detach_device(dom0, domain.domid, disk.kind, disk.devid, timeout=0.0)
        disk.advance()
        assert disk.gone
        assert dom0.read_or_none(f"{disk.path}/state") is None


def test_blkfront_without_backend_says_where_both_ends_stand(
    directory: Path, dom0: BlockingXenstore
) -> None:
    """The time limit ends the wait, and the error names path and states."""
    with (
        guest(dom0, directory) as (_, [disk]),
        pytest.raises(HostError, match=r"frontend Initialising, backend Initialising"),
    ):
        disk.connect(timeout=0.05)


def test_blkfront_disks_of_one_domain_get_their_own_events(
    directory: Path, dom0: BlockingXenstore
) -> None:
    """Two disks in turn over one connection; neither takes the other's interrupt."""
    with MiniBackend(directory), guest(dom0, directory, disks=2) as (_, [one, two]):
        one.connect()
        two.connect()
        for turn in range(20):
            one.write(turn, b"1" * 512)
            two.write(turn, b"2" * 512)
        assert one.read(0, 20) == b"1" * 10240
        assert two.read(0, 20) == b"2" * 10240


def test_blkfront_small_domain_uses_the_pages_it_has(
    directory: Path, dom0: BlockingXenstore
) -> None:
    """A load asks for more data pages than there are and works with fewer."""
    with MiniBackend(directory, order=0), guest(dom0, directory, pages=80) as (_, [disk]):
        disk.connect()
        result = disk.run_load(LoadConfig(rw="read", block_size=65536, depth=32))
        assert result.ok
        assert result.reads == 16
