# SPDX-License-Identifier: MIT
"""What a toolstack does to xenstore so that a domain has devices: the nodes libxl writes.

Source of nodes, permissions and order: Xen 4.19, tools/libs/light (libxl_create.c,
libxl_device.c, libxl_disk.c). `xs` is always a connection of the privileged domain, and one that
nobody else watches by: waiting reads its events.

Starts no guest and creates no domain; see `embedded.guest.launch`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, TypeVar

from shared.errors import HostError
from shared.xenbus import XenbusState
from shared.xenstore.blocking import BlockingXenstore
from shared.xenstore.errors import NoEntryError
from worker.devices.block.guest.disk import DiskSpec

CLOSE_TIMEOUT: Final = 10.0
"""Seconds a backend has to close (LIBXL_DESTROY_TIMEOUT)."""
INIT_TIMEOUT: Final = 10.0
"""Seconds a backend has to reach InitWait (LIBXL_INIT_TIMEOUT)."""

_T = TypeVar("_T")


class Xenstore(Protocol):
    """What of `BlockingXenstore` the writing half needs."""

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


def frontend_path(domid: int, devid: int) -> str:
    """Frontend directory of a disk; its kind is vbd whatever serves it."""
    return f"{home(domid)}/device/vbd/{devid}"


def backend_path(domid: int, devid: int, kind: str = "vbd", backend_domid: int = 0) -> str:
    """Backend directory of a disk."""
    return f"{home(backend_domid)}/backend/{kind}/{domid}/{devid}"


def libxl_path(domid: int, devid: int) -> str:
    """The toolstack's own copy, which no guest and no driver domain can write."""
    return f"/libxl/{domid}/device/vbd/{devid}"


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
        # Read-only for the guest by inheritance: cpu, device, control; its own: the others.
        for directory in ("device/vbd", "control"):
            xs.mkdir(f"{base}/{directory}", tx)
        for directory in ("control/shutdown", "data", "drivers", "feature", "attr", "error"):
            xs.mkdir(f"{base}/{directory}", tx)
            xs.set_perms(f"{base}/{directory}", own, tx)

    xs.transact(write)
    xs.introduce(domid)


def remove_domain(xs: Xenstore, domid: int) -> None:
    """Remove everything that xenstore holds of a dead domain, whoever served its devices."""

    def remove(tx: int) -> None:
        vm = xs.read_or_none(f"{home(domid)}/vm", tx)
        for backend in _listing(xs, "/local/domain", tx):
            for kind in _listing(xs, f"{home_of(backend)}/backend", tx):
                _remove(xs, f"{home_of(backend)}/backend/{kind}/{domid}", tx)
        if vm is not None and vm.startswith(b"/vm/"):
            _remove(xs, vm.decode("ascii", "replace"), tx)
        _remove(xs, home(domid), tx)
        _remove(xs, f"/libxl/{domid}", tx)

    xs.transact(remove)


def destroy_domain(xs: BlockingXenstore, domid: int, timeout: float = CLOSE_TIMEOUT) -> None:
    """Close all devices of a domain in order, within `timeout` seconds, then remove it."""
    backends = device_backends(xs, domid)
    for backend in backends:
        request_close(xs, backend)
    deadline = time.monotonic() + timeout
    for backend in backends:
        # A backend that does not close in time loses its directory, as with libxl.
        wait_backend_state(xs, backend, _CLOSED, deadline - time.monotonic())
    remove_domain(xs, domid)


def device_backends(xs: Xenstore, domid: int) -> list[str]:
    """Backend directories of a domain's disks, as the toolstack recorded them."""
    base = f"/libxl/{domid}/device/vbd"
    found = (xs.read_or_none(f"{base}/{devid}/backend") for devid in _listing(xs, base, 0))
    return [path.decode() for path in found if path is not None]


# Disks

_CLOSED: Final = frozenset({XenbusState.CLOSED, XenbusState.UNKNOWN})
_READY: Final = frozenset({XenbusState.INIT_WAIT, XenbusState.CONNECTED})


def disk_nodes(
    domid: int, disk: DiskSpec, backend_domid: int = 0
) -> tuple[dict[str, str], dict[str, str]]:
    """Nodes of the backend and of the frontend directory, in libxl's order."""
    devid = disk.devid
    backend = {
        "frontend": frontend_path(domid, devid),
        "frontend-id": str(domid),
        "online": "1",
        "removable": "0",
        "bootable": "1",
        "state": "1",
        "dev": disk.vdev,
        "type": {"vbd": "phy", "vbd3": "tap"}.get(disk.kind, disk.kind),
        "mode": "r" if disk.readonly else "w",
        "device-type": "disk",
        "discard-enable": "0" if disk.readonly else "1",
        "specification": "xen",
        "params": disk.params,
    }
    frontend = {
        "backend": backend_path(domid, devid, disk.kind, backend_domid),
        "backend-id": str(backend_domid),
        "state": "1",
        "virtual-device": str(devid),
        "device-type": "disk",
        "trusted": "1",
    }
    return backend, frontend


def attach_disk(xs: Xenstore, domid: int, disk: DiskSpec, backend_domid: int = 0) -> int:
    """Write a disk's three directories in one transaction; returns the device number.

    Raises:
        HostError: there is such a disk already, or xenstored refuses.
    """
    devid = disk.devid
    backend, frontend = disk_nodes(domid, disk, backend_domid)
    front, back, own = frontend_path(domid, devid), frontend["backend"], libxl_path(domid, devid)

    def write(tx: int) -> None:
        if xs.read_or_none(f"{own}/backend", tx) is not None:
            raise HostError(f"attach disk: {disk.vdev} of domain {domid}: there is one already")
        _make(xs, tx, front, frontend, [f"n{domid}", f"r{backend_domid}"])
        _make(xs, tx, back, backend, [f"n{backend_domid}", f"r{domid}"])
        _make(xs, tx, own, {"frontend": front, "backend": back, **_without_links(backend)}, ["n0"])

    xs.transact(write)
    return devid


def detach_disk(
    xs: BlockingXenstore, domid: int, devid: int, timeout: float = CLOSE_TIMEOUT
) -> bool:
    """Ask the backend to close, wait, remove; False if it had to be removed unclosed.

    Raises:
        HostError: there is no such disk.
    """
    backend = xs.read_or_none(f"{libxl_path(domid, devid)}/backend")
    if backend is None:
        raise HostError(f"detach disk: {devid} of domain {domid}: there is no such disk")
    path = backend.decode()
    request_close(xs, path)
    closed = wait_backend_state(xs, path, _CLOSED, timeout)

    def remove(tx: int) -> None:
        for directory in (frontend_path(domid, devid), path, libxl_path(domid, devid)):
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


def home_of(name: str) -> str:
    """Home directory by a name out of the listing of /local/domain."""
    return f"/local/domain/{name}"


def _make(xs: Xenstore, tx: int, path: str, nodes: Mapping[str, str], perms: Sequence[str]) -> None:
    """Make a directory; nodes below inherit its permissions, so they come after them."""
    xs.mkdir(path, tx)
    xs.set_perms(path, perms, tx)
    xs.write_many({f"{path}/{name}": value for name, value in nodes.items()}, tx)


def _without_links(nodes: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in nodes.items() if name != "frontend"}


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
