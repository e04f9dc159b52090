# SPDX-License-Identifier: MIT
"""What the toolstack writes for domains and for devices of any type."""

from __future__ import annotations

import msgspec
import pytest

from embedded.toolstack import (
    Attached,
    NewDevice,
    attach_device,
    attached_devices,
    create_domain,
    remove_domain,
    request_close,
)
from shared.errors import HostError
from tests.fakes.dict_store import DictStore

BACK = "/local/domain/0/backend/vecho/3/7"


def device(devid: int = 7, kind: str = "vecho", backend_kind: str = "vecho") -> NewDevice:
    """A device with one node of its own on each side."""
    return NewDevice(
        kind=kind,
        backend_kind=backend_kind,
        devid=devid,
        name=f"echo{devid}",
        backend={"name": "hello"},
        frontend={"loud": "1"},
    )


@pytest.fixture
def store() -> DictStore:
    """A store with a domain."""
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


def test_create_domain_has_no_directory_of_any_kind(store: DictStore) -> None:
    """device/<kind> comes with the first device of the kind and inherits its permissions."""
    assert store.directory("/local/domain/3/device") == []
    attach_device(store, 3, device())
    assert store.directory("/local/domain/3/device") == ["vecho"]
    for path in ("/local/domain/3/device", "/local/domain/3/device/vecho"):
        assert path not in store.perms


def test_attach_device_writes_what_all_have_and_then_the_types_own(store: DictStore) -> None:
    """Three directories in one transaction, with libxl's permissions and in its order."""
    before = store.transactions
    attach_device(store, 3, device())
    assert store.transactions == before + 1
    assert list(store.below(BACK).items()) == [
        ("frontend", "/local/domain/3/device/vecho/7"),
        ("frontend-id", "3"),
        ("online", "1"),
        ("state", "1"),
        ("name", "hello"),
    ]
    assert list(store.below("/local/domain/3/device/vecho/7").items()) == [
        ("backend", BACK),
        ("backend-id", "0"),
        ("state", "1"),
        ("loud", "1"),
    ]
    assert store.perms[BACK] == ["n0", "r3"]
    assert store.perms["/local/domain/3/device/vecho/7"] == ["n3", "r0"]
    assert store.perms["/libxl/3/device/vecho/7"] == ["n0"]
    assert store.below("/libxl/3/device/vecho/7")["name"] == "hello"


def test_attach_device_twice_is_refused(store: DictStore) -> None:
    """Kind and number are used once; the same number of another kind is another device."""
    attach_device(store, 3, device())
    with pytest.raises(HostError, match=r"echo7 of domain 3: there is one already"):
        attach_device(store, 3, device())
    attach_device(store, 3, device(kind="vother"))


def test_attached_devices_are_those_of_every_kind(store: DictStore) -> None:
    """As the toolstack recorded them, with the directory of the backend wherever it is."""
    assert attached_devices(store, 3) == []
    attach_device(store, 3, device())
    attach_device(store, 3, device(9, "vother", "qother"), backend_domid=5)
    assert attached_devices(store, 3) == [
        Attached("vecho", 7, BACK),
        Attached("vother", 9, "/local/domain/5/backend/qother/3/9"),
    ]


def test_remove_domain_takes_devices_of_every_kind_along(store: DictStore) -> None:
    """Wherever they are served; those of another domain stay."""
    create_domain(store, 5, "driver", 1)
    attach_device(store, 3, device())
    attach_device(store, 3, device(9, "vother", "qother"), backend_domid=5)
    attach_device(store, 5, device())
    remove_domain(store, 3)
    assert [node for node in store.nodes if "/3/" in f"{node}/"] == []
    assert attached_devices(store, 5) == [Attached("vecho", 7, BACK.replace("/3/", "/5/"))]


@pytest.mark.parametrize(("state", "after"), [(b"4", b"5"), (b"2", b"5"), (b"6", b"6")])
def test_request_close_backend_goes_offline(store: DictStore, state: bytes, after: bytes) -> None:
    """online 0 and Closing, but a closed device stays closed."""
    attach_device(store, 3, device())
    store.nodes[f"{BACK}/state"] = state
    request_close(store, BACK)
    assert (store.nodes[f"{BACK}/online"], store.nodes[f"{BACK}/state"]) == (b"0", after)


def test_request_close_removed_backend_is_not_made_again(store: DictStore) -> None:
    """What is gone stays gone."""
    request_close(store, BACK)
    assert "/local/domain/0/backend" not in store.nodes


def test_attach_device_without_frontend_state_is_readable_only(store: DictStore) -> None:
    """As a primary console's: the guest has nothing to write there, and there is no `state`."""
    attach_device(store, 3, msgspec.structs.replace(device(), has_state=False))
    front = "/local/domain/3/device/vecho/7"
    assert "state" not in store.below(front)
    assert store.below(front)["loud"] == "1"
    assert store.perms[front] == ["n0", "r3"]
