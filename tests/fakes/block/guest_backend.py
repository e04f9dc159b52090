# SPDX-License-Identifier: MIT
"""A small block backend in Python for the tests of the guest side: independent of the real one.

It serves every vbd of one xenstore from a RAM disk per device, in one thread, with the states of
a well-behaved backend (S11 to S16). Speed is not its aim, and it trusts its guests.
"""

from __future__ import annotations

import select
import struct
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from embedded.handles import EmbeddedHypervisor
from embedded.toolstack import home
from shared.errors import GuestFault, HostError
from shared.xenbus import XenbusState
from shared.xenstore.blocking import BlockingXenstore

_BASE = f"{home(0)}/backend/vbd"


class MiniDisk:
    """One device: its RAM disk and, while connected, its ring."""

    def __init__(self, owner: MiniBackend, path: str) -> None:
        self.owner = owner
        self.path = path
        self.data = bytearray(owner.size)
        self.ring: Any = None
        self.frontend = ""
        self.served: list[int] = []
        self.protocols: list[str] = []

    def look(self, xs: BlockingXenstore) -> None:
        """Do what the states call for."""
        state = XenbusState.from_wire(xs.read_or_none(f"{self.path}/state"))
        if state is XenbusState.UNKNOWN:
            self.detach()
            return
        if not self.frontend:
            self.frontend = xs.read(f"{self.path}/frontend").decode()
            xs.watch(f"{self.frontend}/state", self.path)
        front = XenbusState.from_wire(xs.read_or_none(f"{self.frontend}/state"))
        closing = front in (XenbusState.CLOSING, XenbusState.CLOSED)
        if state is XenbusState.INITIALISING or (
            state in (XenbusState.CLOSED, XenbusState.CONNECTED)
            and front is XenbusState.INITIALISING
        ):
            self.detach()
            xs.write(f"{self.path}/max-ring-page-order", str(self.owner.order))
            xs.write(f"{self.path}/feature-persistent", str(int(self.owner.persistent)))
            self._set(xs, XenbusState.INIT_WAIT)
        elif state is XenbusState.INIT_WAIT and front is XenbusState.INITIALISED:
            self._attach(xs)
            for name, value in (("sectors", len(self.data) // 512), ("sector-size", 512)):
                xs.write(f"{self.path}/{name}", str(value))
            xs.write(f"{self.path}/info", "0")
            xs.write(f"{self.path}/feature-flush-cache", "1")
            xs.write(f"{self.path}/feature-discard", "1")
            self._set(xs, XenbusState.CONNECTED)
        elif closing and state is not XenbusState.CLOSED:
            self.detach()
            self._set(xs, XenbusState.CLOSED)

    def _set(self, xs: BlockingXenstore, state: XenbusState) -> None:
        xs.write(f"{self.path}/state", state.to_wire())

    def _attach(self, xs: BlockingXenstore) -> None:
        def node(name: str) -> str | None:
            value = xs.read_or_none(f"{self.frontend}/{name}")
            return None if value is None else value.decode()

        order = int(node("ring-page-order") or 0)
        names = [f"ring-ref{i}" for i in range(1 << order)] if order else ["ring-ref"]
        refs = [int(node(name) or -1) for name in names]
        self.protocols.append(node("protocol") or "")
        self.ring = MiniRing(self, order, refs, int(node("event-channel") or 0))

    def detach(self) -> None:
        """Give the ring back."""
        if self.ring is not None:
            self.ring.close()
            self.ring = None


class MiniRing:
    """The ring of one device, mapped."""

    def __init__(self, disk: MiniDisk, order: int, refs: list[int], port: int) -> None:
        self.disk = disk
        self.domid = int(disk.path.split("/")[-2])
        self.bits = 32 if disk.protocols[-1] == "x86_32-abi" else 64
        self.slot = 112 if self.bits == 64 else 108
        self.slots = 1 << (((4096 << order) - 64) // self.slot).bit_length() - 1
        self.handles = EmbeddedHypervisor(disk.owner.directory).open_handles(grants=True)
        assert self.handles.grant_table is not None
        self.grants = self.handles.grant_table
        self.mapping = self.grants.map(self.domid, refs, writable=True)
        self.memory = self.mapping.buffer
        self.words = self.memory[:64].cast("I")
        self.port = self.handles.event_channels.bind_interdomain(self.domid, port)
        self.cons = self.word(8)

    def word(self, offset: int) -> int:
        return int(self.words[offset // 4])

    def set_word(self, offset: int, value: int) -> None:
        # One store of 4 bytes; struct would write an index byte by byte.
        self.words[offset // 4] = value & 0xFFFFFFFF

    def event(self) -> None:
        """Serve what is there; leave the ring so that the next request rings."""
        channels = self.handles.event_channels
        while (port := channels.pending()) is not None:
            channels.unmask(port)
        while True:
            while self.cons != self.word(0):
                self._serve()
            self.set_word(4, self.cons + 1)
            if self.cons == self.word(0):
                return

    def _serve(self) -> None:
        at = 64 + (self.cons & (self.slots - 1)) * self.slot
        request = bytes(self.memory[at : at + self.slot])
        form = "<BBH4xQQ" if self.bits == 64 else "<BBHQQ"
        operation, count, _, number, sector = struct.unpack_from(form, request)
        start = struct.calcsize(form)
        status = self._data(request, operation, count, sector, start)
        self.disk.served.append(operation)
        struct.pack_into("<QBxh", self.memory, at, number, operation, status)
        self.cons = (self.cons + 1) & 0xFFFFFFFF
        self.set_word(8, self.cons)
        if self.word(12) == self.cons:
            self.handles.event_channels.notify(self.port)

    def _data(self, request: bytes, operation: int, count: int, sector: int, start: int) -> int:
        data = self.disk.data
        if operation == 5:
            length = struct.unpack_from("<Q", request, start)[0]
            data[sector * 512 : (sector + length) * 512] = bytes(length * 512)
            return 0
        if operation not in (0, 1):
            return 0 if operation == 3 else -2
        for index in range(count):
            ref, first, last = struct.unpack_from("<IBB", request, start + index * 8)
            length = (last - first + 1) * 512
            here = slice(sector * 512, sector * 512 + length)
            if here.stop > len(data):
                return -1
            try:
                if operation:
                    data[here] = self.grants.copy_from(self.domid, ref, first * 512, length)
                else:
                    self.grants.copy_to(self.domid, ref, first * 512, bytes(data[here]))
            except GuestFault:
                return -1
            sector += length // 512
        return 0

    def close(self) -> None:
        self.words.release()
        self.mapping.unmap()
        self.handles.close()


class MiniBackend:
    """All vbds of an embedded hypervisor; a context manager."""

    def __init__(
        self, directory: Path, *, size: int = 1 << 20, order: int = 4, persistent: bool = True
    ) -> None:
        self.directory = directory
        self.size = size
        self.order = order
        self.persistent = persistent
        self.disks: dict[str, MiniDisk] = {}
        self.error: Exception | None = None
        self._stop, self._wake = select.epoll(), threading.Event()
        self._xs = BlockingXenstore(directory / "xenstored" / "socket", reconnect=True)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._quit = threading.Event()

    def disk(self, domid: int, devid: int = 51712) -> MiniDisk:
        return self.disks[f"{_BASE}/{domid}/{devid}"]

    def __enter__(self) -> MiniBackend:
        # Before anybody makes a device: those that are there already are not looked for.
        self._xs.watch(_BASE, "backend")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._quit.set()
        # Any event wakes it; nothing else looks at this one.
        with suppress(HostError), BlockingXenstore(self.directory / "xenstored" / "socket") as xs:
            xs.write(f"{_BASE}", b"")
        self._thread.join(5)
        for disk in self.disks.values():
            disk.detach()
        self._xs.close()
        self._stop.close()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            away = False
            while not self._quit.is_set():
                try:
                    if away:
                        self._look_again()
                    away = False
                    self._turn()
                except HostError:
                    # xenstored is away; the rings would work on, but no test needs that.
                    away = True
                    self._quit.wait(0.05)
        except Exception as error:  # noqa: BLE001 - shown by the test's thread
            self.error = error

    def _turn(self) -> None:
        # Events that came with an answer are in the client, where select does not see them.
        while (event := self._xs.wait_event(0)) is not None:
            self._event(event.path, event.token)
        if self._quit.is_set():
            return  # one of those may have been the last there is to wake us
        rings = {
            disk.ring.handles.event_channels.fileno(): disk.ring
            for disk in self.disks.values()
            if disk.ring is not None
        }
        ready, _, _ = select.select([self._xs, *rings], [], [], 30)
        for fd in ready:
            if isinstance(fd, int):
                rings[fd].event()

    def _look_again(self) -> None:
        for disk in self.disks.values():
            disk.look(self._xs)

    def _event(self, path: str, token: str) -> None:
        device = token
        if token == "backend":
            parts = path.removeprefix(_BASE).strip("/").split("/")
            if len(parts) < 2:
                return
            if len(parts) > 2 and parts[2] != "state":
                return
            device = "/".join([_BASE, *parts[:2]])
        if device not in self.disks:
            self.disks[device] = MiniDisk(self, device)
        self.disks[device].look(self._xs)
