# SPDX-License-Identifier: MIT
"""What the toolstack writes for a disk, against a store that is a dictionary."""

from __future__ import annotations

import pytest

from embedded.toolstack import create_domain, remove_domain
from shared.errors import ConfigError, HostError
from tests.fakes.dict_store import DictStore
from worker.devices.block.guest.disk import DiskSpec
from worker.devices.block.guest.side import GUEST
from worker.devices.block.guest.toolstack import attach_disk, new_disks


@pytest.fixture
def store() -> DictStore:
    store = DictStore()
    create_domain(store, 3, "demo", 65536)
    return store


def test_attach_disk_writes_the_nodes_libxl_writes(store: DictStore) -> None:
    """Both directories, word for word, in one transaction."""
    before = store.transactions
    disk = DiskSpec(path="/x.img", vdev="xvdb", readonly=True)
    assert attach_disk(store, 3, disk) == 51728
    assert store.transactions == before + 1
    assert store.below("/local/domain/0/backend/vbd/3/51728") == {
        "frontend": "/local/domain/3/device/vbd/51728",
        "frontend-id": "3",
        "online": "1",
        "removable": "0",
        "bootable": "1",
        "state": "1",
        "dev": "xvdb",
        "type": "phy",
        "mode": "r",
        "device-type": "disk",
        "discard-enable": "0",
        "specification": "xen",
        "params": "/x.img",
    }
    assert store.below("/local/domain/3/device/vbd/51728") == {
        "backend": "/local/domain/0/backend/vbd/3/51728",
        "backend-id": "0",
        "state": "1",
        "virtual-device": "51728",
        "device-type": "disk",
        "trusted": "1",
    }
    assert store.perms["/local/domain/0/backend/vbd/3/51728"] == ["n0", "r3"]
    assert store.perms["/local/domain/3/device/vbd/51728"] == ["n3", "r0"]
    assert store.perms["/libxl/3/device/vbd/51728"] == ["n0"]
    assert store.below("/libxl/3/device/vbd/51728")["params"] == "/x.img"


def test_attach_disk_other_kind_and_domain_move_the_backend(store: DictStore) -> None:
    """A qdisk in a driver domain; the frontend's kind stays vbd."""
    attach_disk(store, 3, DiskSpec(path="/x", vdev="xvda", kind="qdisk"), backend_domid=7)
    back = "/local/domain/7/backend/qdisk/3/51712"
    assert store.below(back)["params"] == "aio:/x"
    assert store.below("/local/domain/3/device/vbd/51712")["backend"] == back
    assert store.perms[back] == ["n7", "r3"]
    assert store.perms["/local/domain/3/device/vbd/51712"] == ["n3", "r7"]


def test_attach_disk_twice_is_refused(store: DictStore) -> None:
    """A name is used once; the disk that is there is not touched."""
    attach_disk(store, 3, DiskSpec(path="/x", vdev="xvda"))
    with pytest.raises(HostError, match="there is one already"):
        attach_disk(store, 3, DiskSpec(path="/y", vdev="xvda"))
    assert store.below("/local/domain/0/backend/vbd/3/51712")["params"] == "/x"


def test_remove_domain_nothing_of_it_is_left(store: DictStore) -> None:
    """Backends in every domain and of every kind, and only those of this domain."""
    create_domain(store, 4, "other", 1)
    attach_disk(store, 3, DiskSpec(path="/x", vdev="xvda"))
    attach_disk(store, 3, DiskSpec(path="/y", vdev="xvdb", kind="qdisk"), backend_domid=4)
    attach_disk(store, 4, DiskSpec(path="/z", vdev="xvda"))
    vm = store.nodes["/local/domain/3/vm"].decode()
    remove_domain(store, 3)
    remove_domain(store, 3)
    left = [node for node in store.nodes if "/3/" in f"{node}/" or node.startswith(vm)]
    assert left == []
    assert store.below("/local/domain/0/backend/vbd/4/51712")["params"] == "/z"


def test_new_disks_names_are_free_ones_of_the_guest() -> None:
    """Beside a disk that the guest has, two that ask for no name get the next ones."""
    disks = new_disks([DiskSpec(path="/1"), DiskSpec(path="/2")], taken=[51712, 51744])
    assert [(disk.name, disk.devid) for disk in disks] == [("xvdb", 51728), ("xvdd", 51760)]
    with pytest.raises(ConfigError, match="used twice"):
        new_disks([DiskSpec(path="/1", vdev="xvda")], taken=[51712])


def test_side_arguments_of_the_command_line_become_new_disks() -> None:
    """`--disk` twice: kinds of both ends, names, and the nodes of each."""
    first, second = GUEST.new_devices(["/a", "/b,ro,kind=qdisk"], ())
    assert (first.kind, first.backend_kind, first.name) == ("vbd", "vbd", "xvda")
    assert (second.kind, second.backend_kind, second.name) == ("vbd", "qdisk", "xvdb")
    assert (first.backend["mode"], second.backend["mode"]) == ("w", "r")
