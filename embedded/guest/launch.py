# SPDX-License-Identifier: MIT
"""Guests of an embedded hypervisor: made, found, changed and destroyed from outside.

What a toolstack does, in its order: make the domain, write its nodes and its devices', start it,
wait until it runs. A step that fails undoes those before it.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from embedded import toolstack
from embedded.guest.client import GuestClient
from embedded.guest.control import GuestReply, socket_path
from embedded.guest.side import PROTOCOLS
from embedded.guest.sides import guest_sides, side_of
from embedded.hypercalls import CreatedDomain, DomainInfo, Hypercalls
from embedded.toolstack import Attached, NewDevice
from shared.errors import ConfigError, HostError
from shared.hypervisor.interface import PAGE_SIZE
from shared.xenstore.blocking import BlockingXenstore

MEMORY_PAGES: Final = 16384
"""64 MiB. Memory that is not touched costs nothing."""
START_TIMEOUT: Final = 30.0
"""Seconds until a guest's process must be ready; it takes a fraction of one when idle."""

_ROOT: Final = Path(__file__).resolve().parents[2]


def open_xenstore(directory: Path) -> BlockingXenstore:
    """A connection of the privileged domain; raises HostError if there is no xenstored."""
    return BlockingXenstore(directory / "xenstored" / "socket")


class GuestHandle:
    """A guest by its name and domain id."""

    def __init__(
        self,
        directory: Path,
        name: str,
        domid: int,
        process: subprocess.Popen[bytes] | None = None,
    ) -> None:
        self.directory = directory
        self.name = name
        self.domid = domid
        self.process = process
        """The guest's process, if it was started by us."""

    def client(self) -> GuestClient:
        """A new control connection; raises HostError if its process does not listen."""
        return GuestClient(socket_path(self.directory, self.domid))

    def taken(self, kind: str) -> set[int]:
        """Device numbers of that kind which it has already."""
        with closing(open_xenstore(self.directory)) as xs:
            attached = toolstack.attached_devices(xs, self.domid)
        return {device.devid for device in attached if device.kind == kind}

    def attach(self, devices: Sequence[NewDevice], timeout: float = 20.0) -> None:
        """Attach devices while it runs, and wait until it has connected them.

        Raises:
            HostError: one is there already, or not connected in time; what was attached stays
                attached, as with xl.
        """
        with self.client() as client, closing(open_xenstore(self.directory)) as xs:
            present = client.describe().devices
            for device in devices:
                toolstack.attach_device(xs, self.domid, device)
            client.wait_connected(len(present) + len(devices), timeout)

    def detach(self, name: str, timeout: float = toolstack.CLOSE_TIMEOUT) -> bool:
        """Detach a device; False if its backend did not close in time (it is removed anyway).

        Args:
            name: what people call it, or its device number; `kind/name` where two types have a
                device of that name.
            timeout: seconds its backend has to close.

        Raises:
            ConfigError: no type has such a name, or more than one has such a device.
            HostError: there is no such device.
        """
        with closing(open_xenstore(self.directory)) as xs:
            kind, devid = identify(name, toolstack.attached_devices(xs, self.domid))
            return toolstack.detach_device(xs, self.domid, kind, devid, timeout)

    def destroy(self, timeout: float = toolstack.CLOSE_TIMEOUT) -> None:
        """Close its devices, remove its nodes, end it.

        Raises:
            HostError: hypervisor or xenstored is away.
        """
        with closing(open_xenstore(self.directory)) as xs:
            toolstack.destroy_domain(xs, self.domid, timeout)
        with suppress(HostError), self.client() as client:
            client.shut_down(orderly=False)
        with Hypercalls(self.directory) as hypercalls:
            if any(one.domid == self.domid for one in hypercalls.list_domains()):
                # A process that did not listen: the domain ends all the same.
                with suppress(HostError):
                    hypercalls.destroy_domain(self.domid)
        socket_path(self.directory, self.domid).unlink(missing_ok=True)
        self.reap()

    def leave(self) -> None:
        """Let its process live on without us; init adopts it when we end."""
        if self.process is not None:
            # So that Popen does not complain about a child nobody waits for.
            self.process.returncode = 0
            self.process = None

    def kill(self) -> None:
        """End the process by SIGKILL, as a crash of the whole domain; only of one we started."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
        self.reap()

    def reap(self, timeout: float = 10.0) -> None:
        """Wait for the end of a process we started, killing it after `timeout` seconds."""
        if self.process is None:
            return
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def create_guest(
    directory: Path,
    name: str,
    devices: Sequence[NewDevice],
    *,
    memory_pages: int = MEMORY_PAGES,
    timeout: float = 20.0,
    protocol: str = PROTOCOLS[0],
    wait: bool = True,
) -> GuestHandle:
    """Make a guest with its devices and wait until all are connected.

    Args:
        directory: of the embedded hypervisor.
        name: unique among the guests there.
        devices: as their types' guest sides make them.
        memory_pages: its memory, pages of 4 KiB.
        timeout: seconds for all devices to become connected.
        protocol: request layout its frontends use.
        wait: False returns when the process is ready, however far its devices are.

    Raises:
        ConfigError: the name is taken.
        HostError: no hypervisor, no xenstored, or not connected in time. The guest is gone then.
    """
    if any(one.name == name for one in list_guests(directory)):
        raise ConfigError(f"create guest: {name}: there is one of this name already")
    with Hypercalls(directory) as hypercalls:
        domain = hypercalls.create_domain(name, memory_pages)
    handle = GuestHandle(directory, name, domain.domid)
    try:
        with closing(open_xenstore(directory)) as xs:
            toolstack.create_domain(xs, domain.domid, name, memory_pages * PAGE_SIZE // 1024)
            for device in devices:
                toolstack.attach_device(xs, domain.domid, device)
        handle.process = _spawn(directory, name, domain, protocol)
        if wait:
            with handle.client() as client:
                client.wait_connected(len(devices), timeout)
    except BaseException:
        _undo(handle)
        raise
    finally:
        # The process has its own; with ours open the domain would outlive it.
        os.close(domain.lifeline)
        os.close(domain.memory)
    return handle


def list_guests(directory: Path) -> list[DomainInfo]:
    """All living domains except dom0; raises HostError if there is no hypervisor."""
    if not (directory / "hypervisor").is_dir():
        raise HostError(
            f"guests: {directory}: no embedded hypervisor runs there "
            "(xenbackd serve --embedded, or xenbackd embedded, starts one)"
        )
    with Hypercalls(directory) as hypercalls:
        return hypercalls.list_domains()


def find_guest(directory: Path, name: str) -> GuestHandle:
    """A guest by its name or domain id; raises ConfigError if there is none."""
    guests = list_guests(directory)
    for guest in guests:
        if guest.name == name:
            return GuestHandle(directory, guest.name, guest.domid)
    for guest in guests:
        if str(guest.domid) == name:
            return GuestHandle(directory, guest.name, guest.domid)
    names = ", ".join(guest.name for guest in guests) or "none"
    raise ConfigError(f"guest: {name}: there is no such guest (there are: {names})")


def describe(directory: Path, guest: DomainInfo) -> GuestReply | None:
    """What a guest says of itself; None if its process does not answer."""
    try:
        with GuestClient(socket_path(directory, guest.domid), timeout=2.0) as client:
            return client.describe()
    except HostError:
        return None


def identify(name: str, attached: Sequence[Attached]) -> tuple[str, int]:
    """Kind and number of the attached device that is meant."""
    sides = guest_sides()
    kind, _, within = name.rpartition("/")
    wanted = [side_of(sides, kind)] if kind else list(sides.values())
    possible = set()
    for side in wanted:
        with suppress(ConfigError):
            devid = int(within) if within.isdecimal() else side.number_of(within)
            possible.add((side.kind, devid))
    if not possible:
        raise ConfigError(f"detach device: {name}: no device type has such a name")
    found = [device for device in attached if (device.kind, device.devid) in possible]
    if not found:
        raise HostError(f"detach device: {name}: the guest has no such device")
    if len(found) > 1:
        which = " or ".join(f"{device.kind}/{device.devid}" for device in found)
        raise ConfigError(f"detach device: {name}: there are more than one: say {which}")
    return found[0].kind, found[0].devid


def _spawn(
    directory: Path, name: str, domain: CreatedDomain, protocol: str
) -> subprocess.Popen[bytes]:
    (directory / "guests").mkdir(mode=0o700, exist_ok=True)
    log = directory / "guests" / f"{domain.domid}.log"
    ready, tell = os.pipe()
    arguments = {
        "--dir": str(directory.absolute()),
        "--domid": str(domain.domid),
        "--name": name,
        "--lifeline": str(domain.lifeline),
        "--memory": str(domain.memory),
        "--ready-fd": str(tell),
        "--protocol": protocol,
    }
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "embedded.guest"]
                + [f"{key}={value}" for key, value in arguments.items()],
                env={**os.environ, "PYTHONPATH": path},
                pass_fds=[domain.lifeline, domain.memory, tell],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        os.close(tell)
        tell = -1
        readable, _, _ = select.select([ready], [], [], START_TIMEOUT)
        if readable and os.read(ready, 1):
            return process
    finally:
        os.close(ready)
        if tell >= 0:
            os.close(tell)
    process.kill()
    process.wait()
    said = log.read_text(errors="replace").strip().splitlines()
    raise HostError(f"start guest: {name}: {said[-1] if said else 'not ready in time'}")


def _undo(handle: GuestHandle) -> None:
    """Take back a guest that did not come up."""
    handle.kill()
    with suppress(HostError), closing(open_xenstore(handle.directory)) as xs:
        toolstack.destroy_domain(xs, handle.domid, timeout=2.0)
    with suppress(HostError), Hypercalls(handle.directory) as hypercalls:
        hypercalls.destroy_domain(handle.domid)
    socket_path(handle.directory, handle.domid).unlink(missing_ok=True)
