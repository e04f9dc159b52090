# SPDX-License-Identifier: MIT
"""A whole xenbackd, a guest that nothing may disturb, and books of everything that is held.

For tests that hurt one device on purpose: `World.untouched()` around the deed asserts that the
neighbour's I/O went on without an error in the same worker, and that afterwards every process has
as many descriptors, every domain as many ports and mappings, and the supervisor as many watches as
before. Guests live in the process of the test, so it can be as hostile as it likes.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeVar

from bench.held import below, open_files
from bench.lab import DEFAULT_CONFIG, Lab
from embedded.domain import Domain
from embedded.hypercalls import Hypercalls, Stats
from embedded.toolstack import backend_path, create_domain, wait_backend_state
from shared.control import AnyRequest, DeviceStatus, Done, Events, EventsReply, Reply, Restart
from shared.xenbus import XenbusState
from shared.xenstore.blocking import BlockingXenstore
from supervisor.cli.client import Client
from worker.devices.block.guest.blkfront import BlockFrontend
from worker.devices.block.guest.disk import DiskSpec
from worker.devices.block.guest.toolstack import attach_disk

R = TypeVar("R", bound=Reply)

DEVID: Final = 51712
SIZE: Final = 1 << 20
SECTORS: Final = SIZE // 512
DEADLINE: Final = 15.0
PACE: Final = 0.02
"""Seconds between two rounds of the neighbour."""

CONFIG: Final = {
    **DEFAULT_CONFIG,
    # What a test waits for, often: counters come with the beat.
    "timeouts": {"beat": 0.1, "beat_dead": 10},
}


class Guest(NamedTuple):
    """One guest of the test's own with one disk; nothing is connected by itself."""

    lab: Lab
    dom0: BlockingXenstore
    domain: Domain
    xs: BlockingXenstore
    """The guest's own connection."""
    disk: BlockFrontend
    kind: str = "vbd"
    image: str = ""
    backend_domid: int = 0

    @property
    def device(self) -> str:
        """Name of the disk's device."""
        return f"{self.kind}/{self.domain.domid}/{self.disk.devid}"

    @property
    def backend(self) -> str:
        """Backend directory."""
        return backend_path(self.domain.domid, self.kind, self.disk.devid, self.backend_domid)

    @property
    def error(self) -> str:
        """Node the kernel's backends write errors to, and ours."""
        return f"/local/domain/{self.backend_domid}/error/backend/{self.device}/error"

    @property
    def frontend(self) -> str:
        """Frontend directory."""
        return self.disk.path

    def wait_backend(self, *states: XenbusState) -> None:
        """Wait until the backend is in one of the states."""
        assert wait_backend_state(self.dom0, self.backend, frozenset(states), DEADLINE), (
            self.dom0.read_or_none(f"{self.backend}/state"),
            self.lab.log()[-3000:],
        )

    def works(self) -> None:
        """What is written can be read back."""
        data = os.urandom(4096)
        self.disk.write(8, data)
        self.disk.flush()
        assert self.disk.read(8, 8) == data


class Held(NamedTuple):
    """Everything that could leak."""

    watches: int
    workers: int
    hypervisor: Stats
    descriptors: Mapping[int, int]
    """Of every process below the supervisor and the hypervisor."""

    def no_more_than(self, before: Held, replaced: int | None) -> bool:
        """Whether nothing has come to stay since; of `replaced`, a successor.

        Descriptors may be fewer: a connection that has just been closed was counted.
        """
        had, has = dict(before.descriptors), dict(self.descriptors)
        if replaced is not None:
            successor = next(iter(has.keys() - had.keys()), 0)
            had[successor] = had.pop(replaced)
        return (
            self._replace(descriptors={}) == before._replace(descriptors={})
            and has.keys() == had.keys()
            and all(count <= had[pid] for pid, count in has.items())
        )


class World:
    """The lab, its images and the neighbour."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.images = lab.images
        self._count = 0
        self.neighbour: Neighbour

    def image(self, size: int = SIZE) -> Path:
        """A new image with content that tells one from another."""
        self._count += 1
        path = self.images / f"{self._count}.img"
        path.write_bytes(os.urandom(size))
        return path

    @contextmanager
    def guest(
        self,
        image: Path | None = None,
        *,
        readonly: bool = False,
        domid: int | None = None,
        kind: Literal["vbd", "qdisk"] = "vbd",
        **options: Any,
    ) -> Iterator[Guest]:
        """A guest whose disk is attached and not connected; it dies without a word afterwards."""
        path = str(image or self.image())
        spec = DiskSpec(path=path, vdev="xvda", readonly=readonly, kind=kind)
        with self.domain(domid) as (dom0, domain, xs):
            attach_disk(dom0, domain.domid, spec, self.lab.backend_domid)
            disk = BlockFrontend(domain, xs, DEVID, **options)
            yield Guest(self.lab, dom0, domain, xs, disk, kind, path, self.lab.backend_domid)
            disk.release()

    @contextmanager
    def domain(
        self, domid: int | None = None
    ) -> Iterator[tuple[BlockingXenstore, Domain, BlockingXenstore]]:
        """A domain without a device, for devices of any type: dom0's connection, it, its own.

        It dies without a word afterwards.
        """
        directory = self.lab.embedded_dir
        with (
            self.lab.xenstore() as dom0,
            Domain.create(directory, "hostile", 1024, domid) as domain,
        ):
            create_domain(dom0, domain.domid, "hostile", memory_kib=4096)
            with BlockingXenstore(directory / "xenstored" / "domain" / str(domain.domid)) as xs:
                yield dom0, domain, xs

    # --- what is said

    def wait_error(self, guest: Guest, *parts: str, errno: int) -> DeviceStatus:
        """Wait until the error stands in all the places an operator looks at."""
        path = guest.error
        self.lab.wait(
            lambda: _contains((guest.dom0.read_or_none(path) or b"").decode(), parts),
            DEADLINE,
            f"error node with {parts}, now {guest.dom0.read_or_none(path)!r}",
        )
        assert guest.dom0.read(path).startswith(b"-%d " % errno)
        status = self.lab.device(guest.device)
        assert status is not None
        assert _contains(status.error, parts)
        assert any(_contains(line, parts) for line in self.log_of(guest))
        assert any(_contains(text, parts) for text in self.events_of(guest))
        return status

    def log_of(self, guest: Guest) -> list[str]:
        """Log lines of a device."""
        return [line for line in self.lab.log().splitlines() if guest.device in line]

    def events_of(self, guest: Guest) -> list[str]:
        """Texts of a device's events in the event stream."""
        events = self.ask(Events(count=50), EventsReply).events
        return [event.text for event in events if event.device == guest.device]

    def ask(self, request: AnyRequest, reply: type[R]) -> R:
        """Ask the supervisor, as the command line does and without its start-up time."""
        with Client(self.lab.directory, timeout=DEADLINE) as client:
            return client.ask(request, reply)

    def restart(self, guest: Guest) -> None:
        """`xenbackd restart` of the guest's device."""
        self.ask(Restart(device=guest.device), Done)

    # --- what is left

    def held(self) -> Held:
        """Count everything."""
        resources = self.lab.status().resources
        with Hypercalls(self.lab.embedded_dir) as hypercalls:
            stats = hypercalls.stats()
        return Held(resources["watches"], resources["workers"], stats, self._descriptors())

    @contextmanager
    def untouched(self, *, replaced: int | None = None) -> Iterator[None]:
        """The neighbour works on through what happens inside, and nothing is left of that.

        `replaced` is a process that is started again meanwhile.
        """
        self.neighbour.works_on()
        before = self.held()
        yield
        self.neighbour.works_on()
        end = time.monotonic() + DEADLINE
        while not (now := self.held()).no_more_than(before, replaced):
            assert time.monotonic() < end, f"left behind:\n{before}\n{now}"
            select.select([], [], [], 0.01)

    def _descriptors(self) -> dict[int, int]:
        assert self.lab.supervisor is not None
        roots = {self.lab.supervisor.pid}
        if self.lab.hypervisor_pid is not None:
            roots.add(self.lab.hypervisor_pid)
        return {pid: count for pid in below(roots) if (count := open_files(pid)) is not None}


class Neighbour:
    """Another guest that writes and reads back all the time, in a thread."""

    def __init__(self, world: World, guest: Guest) -> None:
        self._lab = world.lab
        self._guest = guest
        self._progress = threading.Condition()
        self._rounds = self._wanted = 0
        self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="neighbour", daemon=True)
        guest.disk.connect(DEADLINE)
        guest.works()
        self._first = world.lab.wait_connected(guest.device)
        self._thread.start()

    @property
    def device(self) -> str:
        """Name of its device."""
        return self._guest.device

    @property
    def pid(self) -> int:
        """Process of its worker."""
        assert self._first.pid is not None
        return self._first.pid

    def works_on(self) -> None:
        """Its I/O goes on, without an error since the beginning, in the worker it began with."""
        with self._progress:
            self._wanted = wanted = self._rounds + 2
            self._progress.notify_all()
            reached = self._progress.wait_for(
                lambda: self._rounds >= wanted or self._error is not None, DEADLINE
            )
        assert self._error is None, self._error
        assert reached, "the neighbour's I/O stands still"
        now = self._lab.device(self.device)
        assert now is not None
        assert (now.pid, now.generation, now.error) == (self.pid, 1, "")

    def close(self) -> None:
        """End the thread."""
        with self._progress:
            self._stopped = True
            self._progress.notify_all()
        self._thread.join(DEADLINE)

    def _pause(self) -> bool:
        """Leave the processors to others until a test wants to see it work; True at the end."""
        with self._progress:
            self._progress.wait_for(lambda: self._stopped or self._rounds < self._wanted, PACE)
            return self._stopped

    def _run(self) -> None:
        try:
            while not self._pause():
                sector = self._rounds % (SECTORS // 8) * 8
                data = self._rounds.to_bytes(8, "little") * 512
                self._guest.disk.write(sector, data)
                if self._guest.disk.read(sector, 8) != data:
                    raise AssertionError(f"sector {sector}: not what was written")
                with self._progress:
                    self._rounds += 1
                    self._progress.notify_all()
        except BaseException as error:  # noqa: BLE001 — told by the next `works_on`
            with self._progress:
                self._error = error
                self._progress.notify_all()


@contextmanager
def running_world(config: Mapping[str, Any] = CONFIG, **options: Any) -> Iterator[World]:
    """A lab with a busy neighbour."""
    with world_in(Lab(config, **options)) as world:
        yield world


@contextmanager
def world_in(installation: Lab) -> Iterator[World]:
    """The same in an installation that is not started yet."""
    with installation as lab:
        world = World(lab)
        # Without persistent grants it holds the same number of mappings at any time.
        with world.guest(persistent=False) as guest:
            world.neighbour = Neighbour(world, guest)
            try:
                yield world
            finally:
                world.neighbour.close()


def _contains(text: str, parts: tuple[str, ...]) -> bool:
    return all(part in text for part in parts)
