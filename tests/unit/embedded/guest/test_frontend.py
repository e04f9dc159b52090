# SPDX-License-Identifier: MIT
"""The steps of a frontend of any type, against a store that is a dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from embedded.domain import Domain
from embedded.guest.frontend import Frontend
from embedded.toolstack import NewDevice, attach_device, create_domain
from shared.errors import HostError
from shared.xenbus import XenbusState
from shared.xenstore.blocking import BlockingXenstore
from tests.fakes.dict_store import DictStore

FRONT = "/local/domain/3/device/vstub/0"
BACK = "/local/domain/0/backend/vstub/3/0"


class GuestStore(DictStore):
    """What of the guest's connection a frontend needs besides."""

    def __init__(self) -> None:
        super().__init__()
        self.watches: set[tuple[str, str]] = set()

    def read(self, path: str) -> bytes:
        """A node that is there."""
        return self.nodes[path]

    def watch(self, path: str, token: str) -> None:
        """Noted."""
        self.watches.add((path, token))

    def unwatch(self, path: str, token: str) -> None:
        """Noted; it must be there."""
        self.watches.remove((path, token))

    def set_state(self, directory: str, state: XenbusState) -> None:
        """As the other end does."""
        self.nodes[f"{directory}/state"] = state.to_wire()


class Stub(Frontend[str]):
    """A type whose ring is a list of what was done with it."""

    kind = "vstub"
    stale_nodes = ("ring-ref", "extra")

    def __init__(self, store: GuestStore) -> None:
        domain = cast("Domain", SimpleNamespace(domid=3))
        super().__init__(domain, cast("BlockingXenstore", store), 0)
        self.done: list[str] = []
        self.nodes: Mapping[str, str] | HostError = {"ring-ref": "8"}

    def _share(self) -> Mapping[str, str]:
        self.done.append("share")
        if isinstance(self.nodes, HostError):
            raise self.nodes
        return self.nodes

    def _read_info(self) -> str | None:
        word = self._xs.read_or_none(f"{self.backend_path}/word")
        return None if word is None else word.decode()

    def _stop_io(self) -> None:
        self.done.append("stop")

    def _drop_ring(self) -> None:
        self.done.append("drop")


class Eager(Stub):
    """A type with steps of its own: it shares at once and is Connected with that."""

    def _step(self) -> None:
        if self.state is XenbusState.INITIALISING:
            self._offer(XenbusState.CONNECTED)


@pytest.fixture
def store() -> GuestStore:
    """A domain with one device."""
    store = GuestStore()
    create_domain(store, 3, "demo", 4096)
    attach_device(
        store,
        3,
        NewDevice(kind="vstub", backend_kind="vstub", devid=0, name="0", backend={}, frontend={}),
    )
    return store


def connected(store: GuestStore) -> Stub:
    """A frontend that is Connected."""
    frontend = Stub(store)
    for state in (XenbusState.INIT_WAIT, XenbusState.CONNECTED):
        store.nodes[f"{BACK}/word"] = b"hello"
        store.set_state(BACK, state)
        frontend.advance()
    assert frontend.connected
    return frontend


def state_of(store: GuestStore) -> XenbusState:
    """What the frontend says its state is."""
    return XenbusState.from_wire(store.nodes[f"{FRONT}/state"])


def test_frontend_waits_for_its_backend(store: GuestStore) -> None:
    """Nothing is shared before InitWait; the backend's state is watched from the first look on."""
    frontend = Stub(store)
    assert frontend.advance() is XenbusState.INITIALISING
    assert frontend.done == []
    assert store.watches == {(f"{BACK}/state", "vstub/0")}


def test_frontend_shares_in_one_transaction_and_removes_what_is_stale(store: GuestStore) -> None:
    """Nodes of an earlier connection that this one does not have are gone with it."""
    store.nodes[f"{FRONT}/extra"] = b"old"
    store.set_state(BACK, XenbusState.INIT_WAIT)
    before = store.transactions
    assert Stub(store).advance() is XenbusState.INITIALISED
    assert store.transactions == before + 1
    assert store.nodes[f"{FRONT}/ring-ref"] == b"8"
    assert f"{FRONT}/extra" not in store.nodes


def test_frontend_share_that_fails_leaves_nothing(store: GuestStore) -> None:
    """What was taken half-way is given back, and the state is what it was."""
    store.set_state(BACK, XenbusState.INIT_WAIT)
    frontend = Stub(store)
    frontend.nodes = HostError("no page left")
    with pytest.raises(HostError, match="no page left"):
        frontend.advance()
    assert frontend.done == ["share", "stop", "drop"]
    assert state_of(store) is XenbusState.INITIALISING


def test_frontend_is_connected_once_the_backend_has_said_all(store: GuestStore) -> None:
    """Connected without a word is not enough; what is said later counts as well."""
    frontend = Stub(store)
    for state in (XenbusState.INIT_WAIT, XenbusState.CONNECTED):
        store.set_state(BACK, state)
        frontend.advance()
    assert (state_of(store), frontend.info) == (XenbusState.INITIALISED, None)

    store.nodes[f"{BACK}/word"] = b"hello"
    frontend.advance()
    assert (state_of(store), frontend.info) == (XenbusState.CONNECTED, "hello")

    store.nodes[f"{BACK}/word"] = b"changed"
    frontend.advance()
    assert frontend.info == "changed"


@pytest.mark.parametrize("state", [XenbusState.CLOSING, XenbusState.CLOSED])
def test_frontend_follows_its_backend_down(store: GuestStore, state: XenbusState) -> None:
    """I/O stops before the ring goes, and Closed is said when all is given back."""
    frontend = connected(store)
    frontend.done.clear()
    store.set_state(BACK, state)
    assert frontend.advance() is XenbusState.CLOSED
    assert frontend.done == ["stop", "stop", "drop"]
    frontend.advance()
    assert frontend.done == ["stop", "stop", "drop"]


def test_frontend_that_is_unplugged_writes_nothing_more(store: GuestStore) -> None:
    """Its directory is gone and stays gone; nothing is watched any more."""
    frontend = connected(store)
    store.rm(FRONT)
    frontend.advance()
    frontend.begin_close()
    assert frontend.gone
    assert not [node for node in store.nodes if node.startswith(FRONT)]
    assert store.watches == set()


def test_frontend_type_may_have_steps_of_its_own(store: GuestStore) -> None:
    """Built from the same pieces, in another order."""
    frontend = Eager(store)
    frontend.advance()
    assert (state_of(store), frontend.done) == (XenbusState.CONNECTED, ["share"])


def test_frontend_restart_is_another_kernel(store: GuestStore) -> None:
    """Back to Initialising with nothing left of the connection, closed before or not."""
    frontend = connected(store)
    frontend.restart()
    assert (state_of(store), cast("Any", frontend.info)) == (XenbusState.INITIALISING, None)
    assert frontend.done[-2:] == ["stop", "drop"]


class Silent(Stub):
    """A type whose frontend has no `state`."""

    kind = "vsilent"
    has_state = False


@pytest.fixture
def silent(store: GuestStore) -> Silent:
    """Its ring was shared before the toolstack attached it."""
    frontend = Silent(store)
    toolstack_nodes = frontend.prepare()
    device = NewDevice(
        kind="vsilent",
        backend_kind="vsilent",
        devid=0,
        name="0",
        backend={"word": "hello"},
        frontend=toolstack_nodes,
        has_state=False,
    )
    attach_device(store, 3, device)
    return frontend


def test_frontend_without_state_follows_its_backend_and_writes_nothing(
    store: GuestStore, silent: Silent
) -> None:
    """It counts as connected when the backend is; its ring stays when the backend closes."""
    back, front = BACK.replace("vstub", "vsilent"), FRONT.replace("vstub", "vsilent")
    store.set_state(back, XenbusState.CONNECTED)
    silent.advance()
    assert silent.connected
    assert silent.info == "hello"

    silent.close()
    silent.restart()
    store.set_state(back, XenbusState.CLOSED)
    silent.advance()
    assert not silent.connected
    assert "drop" not in silent.done
    assert f"{front}/state" not in store.nodes


def test_frontend_without_state_is_gone_with_its_directory(
    store: GuestStore, silent: Silent
) -> None:
    """Then its ring goes too."""
    store.set_state(BACK.replace("vstub", "vsilent"), XenbusState.CONNECTED)
    silent.advance()
    store.rm(FRONT.replace("vstub", "vsilent"))
    silent.advance()
    assert silent.gone
    assert silent.done[-1] == "drop"
