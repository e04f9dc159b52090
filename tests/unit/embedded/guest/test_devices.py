# SPDX-License-Identifier: MIT
"""A guest's devices of several types: which events concern which of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from embedded.domain import Domain
from embedded.guest.devices import Devices
from embedded.guest.frontend import Frontend
from embedded.guest.side import DeviceOption, GuestSide
from embedded.toolstack import NewDevice
from shared.errors import ConfigError, HostError
from shared.xenbus import XenbusState
from shared.xenstore.blocking import BlockingXenstore
from shared.xenstore.errors import NoEntryError

BASE = "/local/domain/3/device"


class Store:
    """Directories below `device`, and watch events that a test puts in."""

    def __init__(self) -> None:
        self.kinds: dict[str, list[str]] = {}
        self.events: deque[SimpleNamespace] = deque()
        self.watches: list[str] = []

    def watch(self, path: str, token: str) -> None:
        """The first event comes at once, as from xenstored."""
        self.watches.append(path)
        self.event(path, token)

    def directory(self, path: str) -> list[str]:
        """Device numbers of a kind."""
        kind = path.removeprefix(f"{BASE}/")
        if kind not in self.kinds:
            raise NoEntryError("directory", path, "ENOENT")
        return self.kinds[kind]

    def wait_event(self, timeout: float) -> SimpleNamespace | None:
        """What waits, in order."""
        return self.events.popleft() if self.events else None

    def event(self, path: str, token: str = "devices") -> None:
        """Something changed there."""
        self.events.append(SimpleNamespace(path=path, token=token))


class Stub:
    """A frontend that counts its steps and is what the test makes it."""

    def __init__(self, kind: str, devid: int) -> None:
        self.token = f"{kind}/{devid}"
        self.name = f"{kind}{devid}"
        self.state = self.backend_state = XenbusState.INITIALISING
        self.backend_path = ""
        self.connected = self.gone = self.released = False
        self.leaked_pages = 0
        self.steps = 0
        self.error: HostError | None = None

    def advance(self) -> XenbusState:
        """One step."""
        self.steps += 1
        if self.error is not None:
            raise self.error
        return self.state

    def reclaim(self) -> None:
        """Nothing to do."""

    def release(self) -> None:
        """Noted."""
        self.released = True


class Side(GuestSide):
    """A type whose frontends are stubs."""

    option = DeviceOption("--stub", "STUB", "")

    def __init__(self, kind: str) -> None:
        self.kind = kind  # type: ignore[misc]  # of the class in real sides
        self.made: dict[int, Stub] = {}

    def new_devices(self, arguments: Sequence[str], taken: Collection[int]) -> list[NewDevice]:
        return []

    def frontend(
        self, domain: Domain, xs: BlockingXenstore, devid: int, protocol: str
    ) -> Frontend[Any]:
        self.made[devid] = Stub(self.kind, devid)
        return cast("Frontend[Any]", self.made[devid])


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def one() -> Side:
    return Side("vone")


@pytest.fixture
def two() -> Side:
    return Side("vtwo")


@pytest.fixture
def devices(store: Store, one: Side, two: Side) -> Devices:
    """Devices of a domain whose guest has drivers for two kinds."""
    domain = cast("Domain", SimpleNamespace(domid=3))
    sides = {"vone": one, "vtwo": two}
    return Devices(domain, cast("BlockingXenstore", store), sides, "x86_64-abi")


def test_devices_first_look_finds_those_of_every_kind(
    devices: Devices, store: Store, one: Side, two: Side
) -> None:
    """One watch for all kinds; one that the guest has no driver for is left alone."""
    store.kinds = {"vone": ["0", "5"], "vtwo": ["0"], "vother": ["1"]}
    devices.take_events()
    assert store.watches == [BASE]
    assert (sorted(one.made), sorted(two.made)) == ([0, 5], [0])
    assert [one.made[5].steps, two.made[0].steps] == [1, 1]


def test_devices_event_of_one_device_concerns_that_device_alone(
    devices: Devices, store: Store, one: Side, two: Side
) -> None:
    """Same number, another kind: not touched."""
    store.kinds = {"vone": ["0"], "vtwo": ["0"]}
    devices.take_events()
    store.event("/local/domain/0/backend/vtwo/3/0/state", "vtwo/0")
    devices.take_events()
    assert (one.made[0].steps, two.made[0].steps) == (1, 2)


def test_devices_writes_inside_a_known_device_are_our_own(
    devices: Devices, store: Store, one: Side
) -> None:
    """No step and no look at the directories for what the frontend wrote itself."""
    store.kinds = {"vone": ["0"]}
    devices.take_events()
    store.kinds = {"vone": ["0", "1"]}
    store.event(f"{BASE}/vone/0/ring-ref")
    devices.take_events()
    assert list(one.made) == [0]
    assert one.made[0].steps == 1


def test_devices_new_directory_of_a_kind_is_found(
    devices: Devices, store: Store, one: Side, two: Side
) -> None:
    """Plugged in while the guest runs."""
    devices.take_events()
    store.kinds = {"vtwo": ["9"]}
    store.event(f"{BASE}/vtwo/9/state")
    devices.take_events()
    assert (list(one.made), list(two.made)) == ([], [9])


def test_devices_unplugged_is_released_once_its_pages_are_back(
    devices: Devices, store: Store, one: Side
) -> None:
    """The backend may still have pages mapped; the next step of any device looks again."""
    store.kinds = {"vone": ["0", "1"]}
    devices.take_events()
    gone = one.made[0]
    gone.gone, gone.leaked_pages = True, 3
    store.event(f"{BASE}/vone/0")
    devices.take_events()
    assert not gone.released
    assert [device.name for device in devices.describe()] == ["vone1"]

    gone.leaked_pages = 0
    store.event("/local/domain/0/backend/vone/3/1/state", "vone/1")
    devices.take_events()
    assert gone.released


def test_devices_error_of_one_is_its_own(devices: Devices, store: Store, one: Side) -> None:
    """It is told of that device until its next step; the others go on."""
    store.kinds = {"vone": ["0", "1"]}
    devices.take_events()
    one.made[0].error = HostError("no memory")
    for devid in (0, 1):
        store.event("", f"vone/{devid}")
    devices.take_events()
    assert [device.error for device in devices.describe()] == ["no memory", ""]
    assert one.made[1].steps == 2


def test_devices_are_connected_when_all_of_every_kind_are(
    devices: Devices, store: Store, one: Side, two: Side
) -> None:
    """What is on its way counts as not connected, of either kind."""
    store.kinds = {"vone": ["0"], "vtwo": ["0"]}
    devices.take_events()
    one.made[0].connected = True
    assert devices.connected() is None
    two.made[0].connected = True
    assert devices.connected() == 2
    assert devices.wait(2, 0.0)
    assert not devices.wait(3, 0.0)


def test_devices_find_tells_kinds_apart(
    devices: Devices, store: Store, one: Side, two: Side
) -> None:
    """By name or number within a kind; a kind without a driver is named."""
    store.kinds = {"vone": ["0"], "vtwo": ["0"]}
    devices.take_events()
    side, frontend = devices.find("vtwo", "0")
    assert side is two
    assert frontend.token == "vtwo/0"
    with pytest.raises(ConfigError, match="device 1: domain 3: it has no such device"):
        devices.find("vone", "1")
    with pytest.raises(ConfigError, match="kind 'vother': this guest has no driver for it"):
        devices.find("vother", "0")
