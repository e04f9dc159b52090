# SPDX-License-Identifier: MIT
"""What a toolstack does to xenstore so that a domain has devices: the nodes libxl writes.

Source of nodes, permissions and order: Xen 4.19, tools/libs/light (libxl_create.c,
libxl_device.c). `xs` is always a connection of the privileged domain that nobody else watches
with: waiting reads its events.

Knows no device type: a `NewDevice` brings the nodes of its own. Starts no guest and makes no
domain; `embedded.guest.launch` does.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol, TypeVar

import msgspec

from shared.errors import HostError
from shared.xenbus import XenbusState
from shared.xenstore.blocking import BlockingXenstore
from shared.xenstore.errors import NoEntryError

CLOSE_TIMEOUT: Final = 10.0
"""Seconds a backend has to close (LIBXL_DESTROY_TIMEOUT)."""
INIT_TIMEOUT: Final = 10.0
"""Seconds a backend has to reach InitWait (LIBXL_INIT_TIMEOUT)."""

_INITIALISING: Final = XenbusState.INITIALISING.to_wire().decode()
_CLOSED: Final = frozenset({XenbusState.CLOSED, XenbusState.UNKNOWN})
_READY: Final = frozenset({XenbusState.INIT_WAIT, XenbusState.CONNECTED})

_T = TypeVar("_T")


class NewDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A device to attach. The nodes are its type's own, without those that every device has."""

    kind: str
    """Of the frontend: its directory below the guest's `device/`."""
    backend_kind: str
    """Directory below the `backend/` of the domain that serves it; mostly the same as `kind`."""
    devid: int
    name: str
    """What people call it."""
    backend: Mapping[str, str]
    """Nodes of the backend directory, in libxl's order."""
    frontend: Mapping[str, str]
    """Nodes of the frontend directory, in libxl's order."""
    has_state: bool = True
    """False: like a primary console, whose directory the guest may only read, and which has no
    `state`; `frontend` then names the ring, made with the domain (`Frontend.prepare`)."""


class Attached(NamedTuple):
    """A device of a domain, as the toolstack recorded it."""

    kind: str
    devid: int
    backend: str
    """Backend directory."""


class Xenstore(Protocol):
    """What the writing half needs of `BlockingXenstore`."""

    def read_or_none(self, path: str, tx: int = 0) -> bytes | None: ...
    def write(self, path: str, value: bytes | str, tx: int = 0) -> None: ...
    def write_many(self, nodes: Mapping[str, bytes | str], tx: int = 0) -> None: ...
    def mkdir(self, path: str, tx: int = 0) -> None: ...
    def rm(self, path: str, tx: int = 0) -> None: ...
    def directory(self, path: str, tx: int = 0) -> list[str]: ...
    def set_perms(self, path: str, perms: Sequence[str], tx: int = 0) -> None: ...
    def transact(self, body: Callable[[int], _T]) -> _T: ...
    def introduce(self, domid: int, mfn: int = 0, port: int = 0) -> None: ...


# Paths


def home(domid: int) -> str:
    """Home directory of a domain."""
    return f"/local/domain/{domid}"


def frontend_path(domid: int, kind: str, devid: int) -> str:
    """Frontend directory of a device."""
    return f"{home(domid)}/device/{kind}/{devid}"


def backend_path(domid: int, kind: str, devid: int, backend_domid: int = 0) -> str:
    """Backend directory of a device of domain `domid`; `kind` is the backend's."""
    return f"{home(backend_domid)}/backend/{kind}/{domid}/{devid}"


def libxl_path(domid: int, kind: str, devid: int) -> str:
    """The toolstack's own copy, which no guest and no driver domain can write."""
    return f"/libxl/{domid}/device/{kind}/{devid}"


# Domains


def create_domain(xs: Xenstore, domid: int, name: str, memory_kib: int) -> None:
    """Write a new domain's home and introduce it, so that it can connect.

    Raises:
        HostError: xenstored refuses or is away.
    """
    vm = f"/vm/{uuid.uuid4()}"
    own, readable, private = [f"n{domid}"], ["n0", f"r{domid}"], ["n0"]

    def write(tx: int) -> None:
        base = home(domid)
        for path in (base, f"/libxl/{domid}"):
            _remove(xs, path, tx)
        for path, perms in ((base, readable), (vm, readable), (f"/libxl/{domid}", private)):
            xs.mkdir(path, tx)
            xs.set_perms(path, perms, tx)
        xs.write(f"{vm}/name", name, tx)
        xs.write(f"{base}/vm", vm, tx)
        xs.write(f"{base}/name", name, tx)
        xs.write(f"{base}/domid", str(domid), tx)
        xs.write(f"{base}/memory/static-max", str(memory_kib), tx)
        xs.write(f"{base}/memory/target", str(memory_kib), tx)
        # The guest may only read these: they inherit the home's permissions, and so does
        # device/<kind>, which comes with the first device of that kind.
        for directory in ("device", "control"):
            xs.mkdir(f"{base}/{directory}", tx)
        # These are the guest's own.
        for directory in ("control/shutdown", "data", "drivers", "feature", "attr", "error"):
            xs.mkdir(f"{base}/{directory}", tx)
            xs.set_perms(f"{base}/{directory}", own, tx)

    xs.transact(write)
    xs.introduce(domid)


def remove_domain(xs: Xenstore, domid: int) -> None:
    """Remove everything xenstore holds of a dead domain, no matter who served its devices."""

    def remove(tx: int) -> None:
        vm = xs.read_or_none(f"{home(domid)}/vm", tx)
        for backend in _listing(xs, "/local/domain", tx):
            base = f"/local/domain/{backend}/backend"
            for kind in _listing(xs, base, tx):
                _remove(xs, f"{base}/{kind}/{domid}", tx)
        if vm is not None and vm.startswith(b"/vm/"):
            _remove(xs, vm.decode("ascii", "replace"), tx)
        _remove(xs, home(domid), tx)
        _remove(xs, f"/libxl/{domid}", tx)

    xs.transact(remove)


def destroy_domain(xs: BlockingXenstore, domid: int, timeout: float = CLOSE_TIMEOUT) -> None:
    """Close all devices of a domain in order, within `timeout` seconds, then remove it."""
    backends = [device.backend for device in attached_devices(xs, domid)]
    for backend in backends:
        request_close(xs, backend)
    deadline = time.monotonic() + timeout
    for backend in backends:
        # A backend that does not close in time loses its directory, as with libxl.
        wait_backend_state(xs, backend, _CLOSED, deadline - time.monotonic())
    remove_domain(xs, domid)


def attached_devices(xs: Xenstore, domid: int) -> list[Attached]:
    """All devices of a domain, of every kind."""
    base = f"/libxl/{domid}/device"
    found = []
    for kind in _listing(xs, base, 0):
        for devid in _listing(xs, f"{base}/{kind}", 0):
            backend = xs.read_or_none(f"{base}/{kind}/{devid}/backend")
            if backend is not None:
                found.append(Attached(kind, int(devid), backend.decode()))
    return found


# Devices


def device_nodes(
    domid: int, device: NewDevice, backend_domid: int = 0
) -> tuple[dict[str, str], dict[str, str]]:
    """Nodes of the backend and of the frontend directory: what all have, then the type's own."""
    backend = {
        "frontend": frontend_path(domid, device.kind, device.devid),
        "frontend-id": str(domid),
        "online": "1",
        "state": _INITIALISING,
        **device.backend,
    }
    frontend = {
        "backend": backend_path(domid, device.backend_kind, device.devid, backend_domid),
        "backend-id": str(backend_domid),
        **({"state": _INITIALISING} if device.has_state else {}),
        **device.frontend,
    }
    return backend, frontend


def attach_device(xs: Xenstore, domid: int, device: NewDevice, backend_domid: int = 0) -> None:
    """Write a device's three directories in one transaction.

    Raises:
        HostError: there is such a device already, or xenstored refuses.
    """
    backend, frontend = device_nodes(domid, device, backend_domid)
    front, back = backend["frontend"], frontend["backend"]
    own = libxl_path(domid, device.kind, device.devid)
    record = {"frontend": front, "backend": back, **backend}
    owners = [f"n{domid}", f"r{backend_domid}"]
    if not device.has_state:
        owners = [f"n{backend_domid}", f"r{domid}"]

    def write(tx: int) -> None:
        if xs.read_or_none(f"{own}/backend", tx) is not None:
            raise HostError(f"attach device: {device.name} of domain {domid}: there is one already")
        _make(xs, tx, front, frontend, owners)
        _make(xs, tx, back, backend, [f"n{backend_domid}", f"r{domid}"])
        _make(xs, tx, own, record, ["n0"])

    xs.transact(write)


def detach_device(
    xs: BlockingXenstore, domid: int, kind: str, devid: int, timeout: float = CLOSE_TIMEOUT
) -> bool:
    """Ask the backend to close, wait, remove; False if it had to be removed unclosed.

    Raises:
        HostError: there is no such device.
    """
    own = libxl_path(domid, kind, devid)
    backend = xs.read_or_none(f"{own}/backend")
    if backend is None:
        raise HostError(f"detach device: {kind}/{devid} of domain {domid}: there is no such device")
    path = backend.decode()
    request_close(xs, path)
    closed = wait_backend_state(xs, path, _CLOSED, timeout)

    def remove(tx: int) -> None:
        for directory in (frontend_path(domid, kind, devid), path, own):
            _remove(xs, directory, tx)

    xs.transact(remove)
    return closed


def request_close(xs: Xenstore, backend: str) -> None:
    """Set `online` to 0 and, unless closed already, `state` to Closing, in one transaction."""

    def write(tx: int) -> None:
        state = XenbusState.from_wire(xs.read_or_none(f"{backend}/state", tx))
        if state is XenbusState.UNKNOWN:
            return
        xs.write(f"{backend}/online", "0", tx)
        if state is not XenbusState.CLOSED:
            xs.write(f"{backend}/state", XenbusState.CLOSING.to_wire(), tx)

    xs.transact(write)


def wait_backend_state(
    xs: BlockingXenstore,
    backend: str,
    wanted: frozenset[XenbusState] = _READY,
    timeout: float = INIT_TIMEOUT,
) -> bool:
    """Wait until the backend is in one of the wanted states; False when time is over."""
    deadline = time.monotonic() + timeout
    path = f"{backend}/state"
    token = f"wait-{uuid.uuid4()}"
    xs.watch(path, token)
    try:
        while XenbusState.from_wire(xs.read_or_none(path)) not in wanted:
            left = deadline - time.monotonic()
            if left <= 0 or xs.wait_event(left) is None:
                return XenbusState.from_wire(xs.read_or_none(path)) in wanted
        return True
    finally:
        xs.unwatch(path, token)


def _make(xs: Xenstore, tx: int, path: str, nodes: Mapping[str, str], perms: Sequence[str]) -> None:
    """Make a directory; nodes below inherit its permissions, so they come after them."""
    xs.mkdir(path, tx)
    xs.set_perms(path, perms, tx)
    xs.write_many({f"{path}/{name}": value for name, value in nodes.items()}, tx)


def _remove(xs: Xenstore, path: str, tx: int) -> None:
    try:
        xs.rm(path, tx)
    except NoEntryError:
        return


def _listing(xs: Xenstore, path: str, tx: int) -> list[str]:
    try:
        return xs.directory(path, tx)
    except NoEntryError:
        return []
