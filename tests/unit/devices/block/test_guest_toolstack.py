# SPDX-License-Identifier: MIT
"""What the toolstack writes, against a store that is a dictionary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import pytest

from embedded.toolstack import create_domain, remove_domain, request_close
from shared.errors import HostError
from shared.xenstore.errors import NoEntryError
from worker.devices.block.guest.disk import DiskSpec
from worker.devices.block.guest.toolstack import attach_disk

T = TypeVar("T")


class DictStore:
    """Nodes and permissions; transactions that only count."""

    def __init__(self) -> None:
        self.nodes: dict[str, bytes] = {}
        self.perms: dict[str, list[str]] = {}
        self.transactions = 0
        self.outside: list[str] = []
        self.introduced: list[int] = []

    def read_or_none(self, path: str, tx: int = 0) -> bytes | None:
        return self.nodes.get(path)

    def write_many(self, nodes: Mapping[str, bytes | str], tx: int = 0) -> None:
        for path, value in nodes.items():
            self.write(path, value, tx)

    def write(self, path: str, value: bytes | str, tx: int = 0) -> None:
        if not tx:
            self.outside.append(path)
        self._parents(path)
        self.nodes[path] = value.encode() if isinstance(value, str) else value

    def mkdir(self, path: str, tx: int = 0) -> None:
        self._parents(path)
        self.nodes.setdefault(path, b"")

    def rm(self, path: str, tx: int = 0) -> None:
        found = [node for node in self.nodes if node == path or node.startswith(f"{path}/")]
        if not found:
            raise NoEntryError("rm", path, "ENOENT")
        for node in found:
            del self.nodes[node]

    def directory(self, path: str, tx: int = 0) -> list[str]:
        if path not in self.nodes:
            raise NoEntryError("directory", path, "ENOENT")
        below = [node[len(path) + 1 :] for node in self.nodes if node.startswith(f"{path}/")]
        return sorted({node.split("/")[0] for node in below})

    def set_perms(self, path: str, perms: Sequence[str], tx: int = 0) -> None:
        self.perms[path] = list(perms)

    def transact(self, body: Callable[[int], T]) -> T:
        self.transactions += 1
        return body(self.transactions)

    def introduce(self, domid: int, mfn: int = 0, port: int = 0) -> None:
        self.introduced.append(domid)

    def below(self, path: str) -> dict[str, str]:
        """Nodes below a directory that have a value."""
        return {
            node[len(path) + 1 :]: value.decode()
            for node, value in self.nodes.items()
            if node.startswith(f"{path}/") and value
        }

    def _parents(self, path: str) -> None:
        while (path := path.rpartition("/")[0]) and path not in self.nodes:
            self.nodes[path] = b""


@pytest.fixture
def store() -> DictStore:
    store = DictStore()
    create_domain(store, 3, "demo", 65536)
    return store


def test_create_domain_home_is_written_then_introduced(store: DictStore) -> None:
    """The guest may read its home and write only what is its own."""
    assert store.introduced == [3]
    assert store.outside == []
    home = store.below("/local/domain/3")
    assert (home["name"], home["domid"], home["memory/target"]) == ("demo", "3", "65536")
    assert home["vm"].startswith("/vm/")
    assert store.perms["/local/domain/3"] == ["n0", "r3"]
    assert store.perms["/local/domain/3/data"] == ["n3"]
    assert "/local/domain/3/device/vbd" not in store.perms


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


@pytest.mark.parametrize(("state", "after"), [(b"4", b"5"), (b"2", b"5"), (b"6", b"6")])
def test_request_close_backend_goes_offline(store: DictStore, state: bytes, after: bytes) -> None:
    """online 0 and Closing, but a closed device stays closed."""
    back = "/local/domain/0/backend/vbd/3/51712"
    attach_disk(store, 3, DiskSpec(path="/x", vdev="xvda"))
    store.nodes[f"{back}/state"] = state
    request_close(store, back)
    assert (store.nodes[f"{back}/online"], store.nodes[f"{back}/state"]) == (b"0", after)


def test_request_close_removed_backend_is_not_made_again(store: DictStore) -> None:
    """What is gone stays gone."""
    request_close(store, "/local/domain/0/backend/vbd/3/51712")
    assert "/local/domain/0/backend" not in store.nodes


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
