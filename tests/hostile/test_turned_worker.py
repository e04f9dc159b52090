# SPDX-License-Identifier: MIT
"""A worker that its guest has taken over, in the jail and against its supervisor.

The attempts are made by real workers of a real `serve`, that were jailed as always and serve disks
meanwhile; `tests.fakes.block.turned_worker` is what turns them. Two types of device stand for two
questions: vbd is served by `jail.mode: enforce`, where most attempts end the worker at the system
call; qdisk by `log`, where the filter forbids nothing and what else there is must hold: user id,
capabilities, namespaces, the empty root. A neighbour reads and writes throughout.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final, Literal, NamedTuple

import pytest

from bench.lab import Lab
from shared.control import DeviceStatus, Events, EventsReply
from supervisor.workers.confinement.door import socket_path
from tests.fakes.block.attacks import REFUSED
from tests.process.lab_world import CONFIG, DEADLINE, Guest, Neighbour, World

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="who is not root cannot give a worker a user id of its own"
)

PROGRAM: Final = """
import sys
import supervisor.workers.spawner
supervisor.workers.spawner.PRELOAD += ("tests.fakes.block.turned_worker",)
from supervisor.cli.main import main
sys.exit(main())
"""

THREADS: Final = 24
STRANGER: Final = 65_533
JAIL: Final[dict[str, Any]] = {
    **CONFIG,
    "jail": {"pids": THREADS, "memory": 64},
    "types": {"vbd": {"handler": "block"}, "qdisk": {"handler": "block", "jail": {"mode": "log"}}},
}


class TurnedLab(Lab):
    """Its workers can be told to attack."""

    @property
    def command(self) -> list[str]:
        return [*super().command[:1], "-c", PROGRAM, *super().command[3:]]


class Attempt(NamedTuple):
    """`logged`: what it is refused with where the filter lets it pass; () is not asked."""

    name: str
    argument: str
    logged: tuple[int, ...] = ()
    refused: int = 0
    """What it is refused with by `enforce`; 0: the worker is killed for it."""

    def __str__(self) -> str:
        return f"{self.name} {self.argument}"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A supervisor whose workers can be turned, and a neighbour whose worker never is."""
    with TurnedLab(JAIL) as lab:
        made = World(lab)
        with made.guest(persistent=False) as guest:
            made.neighbour = Neighbour(made, guest)
            try:
                yield made
            finally:
                made.neighbour.close()


@contextmanager
def disks(world: World, count: int, kind: Literal["vbd", "qdisk"]) -> Iterator[list[Guest]]:
    """Guests with a connected disk each."""
    with ExitStack() as stack:
        guests = [stack.enter_context(world.guest(kind=kind)) for _ in range(count)]
        for guest in guests:
            guest.disk.connect(DEADLINE)
            guest.works()
        yield guests


def attempts(world: World, abstract: str) -> list[Attempt]:
    """All of them, against this world."""
    assert world.lab.supervisor is not None
    directory, sibling = world.lab.directory, str(world.neighbour.pid)
    file = world.neighbour.device.replace("/", "-")
    none, denied = errno.ENOENT, errno.EPERM
    return [
        Attempt("open_file", "/etc/passwd", (none,)),
        Attempt("open_file", "/dev/mem", (none,)),
        Attempt("open_file", "/dev/xen/xenbus", (none,)),
        Attempt("open_file", "/proc/self/status", (none,)),
        Attempt("open_file", f"{directory}/journal/{file}", (none,)),
        Attempt("open_file", f"{directory}/workers/{file}", (none,)),
        Attempt("write_file", f"{socket_path(directory).parent}/x", (errno.EROFS, errno.EACCES)),
        Attempt("remove_file", str(socket_path(directory)), (errno.EROFS, errno.EACCES)),
        Attempt("look_at_file", "/etc/passwd", (errno.EACCES, none), errno.EACCES),
        Attempt("list_root", "", (none, errno.EACCES)),
        Attempt("connect_inet", "22", (errno.ENETUNREACH, errno.EACCES)),
        Attempt("connect_unix", f"{directory}/control.sock", (none,), none),
        Attempt("connect_unix", f"{directory}/embedded/xenstored/socket", (none,), none),
        Attempt("connect_unix", abstract, (errno.ECONNREFUSED, denied), errno.ECONNREFUSED),
        Attempt("kill", str(world.lab.supervisor.pid), (denied,)),
        Attempt("kill", sibling, (denied,)),
        Attempt("kill_by_descriptor", sibling, (denied,)),
        Attempt("take_descriptor", sibling, (denied,)),
        Attempt("trace", sibling, (denied,)),
        Attempt("read_memory", sibling, (denied,)),
        Attempt("fork", "", (errno.EAGAIN,)),
        Attempt("start_threads", "", (errno.EAGAIN,), errno.EAGAIN),
        Attempt("open_descriptors", "", (errno.EMFILE,), errno.EMFILE),
        Attempt("map_memory", "", (errno.ENOMEM,), errno.ENOMEM),
        Attempt("share_pages", "", (errno.ENOMEM,), errno.ENOMEM),
        Attempt("execute", "/bin/sh", (none, errno.EACCES)),
        Attempt("make_executable", ""),
        Attempt("mount", "", (denied,)),
        Attempt("change_root", "", (denied,)),
        Attempt("become_root", "", (denied,)),
        Attempt("get_namespace", "", (denied, errno.EINVAL)),
        Attempt("be_dumpable", ""),
        Attempt("share_memory", ""),
        Attempt("keys", ""),
        Attempt("fault_handler", ""),
        Attempt("load_program", "", (denied, errno.EINVAL)),
        Attempt("count_events", "", (errno.EFAULT, denied, errno.EACCES)),
        Attempt("submit_io", "", (errno.EFAULT, denied)),
    ]


@pytest.fixture(scope="module")
def all_attempts(world: World) -> Iterator[list[Attempt]]:
    """With somebody behind the abstract socket."""
    name = f"@xbd-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind("\0" + name[1:])
        listener.listen()
        yield attempts(world, name)


def attack(guest: Guest, lines: Sequence[object]) -> None:
    """What its worker is to try."""
    guest.xs.write(f"{guest.frontend}/attack", "\n".join(map(str, lines)).encode())


def outcomes(world: World, guest: Guest, count: int) -> list[int]:
    """What came of it: errnos; the worker lives and serves."""

    def told() -> DeviceStatus | None:
        status = world.lab.device(guest.device)
        return status if status and f"outcome_{count - 1}" in status.counters else None

    world.lab.wait(lambda: told() is not None, DEADLINE, "the outcome of the attacks")
    status = told()
    assert status is not None
    assert (status.generation, status.hold) == (1, "")
    guest.works()
    return [status.counters[f"outcome_{number}"] - REFUSED for number in range(count)]


def events_of(world: World, guest: Guest) -> list[str]:
    """Texts of a device's events, of all that are kept."""
    events = world.ask(Events(count=1000), EventsReply).events
    return [event.text for event in events if event.device == guest.device]


def test_turned_worker_is_killed_at_the_forbidden_call(
    world: World, all_attempts: list[Attempt]
) -> None:
    """Each attempt by a worker of its own: SIGSYS, quarantine, an event; the others go on."""
    forbidden = [one for one in all_attempts if not one.refused]
    with disks(world, len(forbidden), "vbd") as guests:
        for guest, attempt in zip(guests, forbidden, strict=True):
            attack(guest, [attempt])
        for guest, attempt in zip(guests, forbidden, strict=True):

            def quarantined(device: str = guest.device) -> bool:
                status = world.lab.device(device)
                return status is not None and status.hold == "quarantined"

            world.lab.wait(quarantined, DEADLINE, f"{guest.device} to be killed: {attempt}")
            status = world.lab.device(guest.device)
            assert status is not None
            assert status.last_failure == "security", attempt
            assert "killed by SIGSYS" in status.error, attempt
            assert any("SIGSYS" in text for text in events_of(world, guest)), attempt
        world.neighbour.works_on()


def test_turned_worker_is_refused_what_the_filter_cannot_tell(
    world: World, all_attempts: list[Attempt]
) -> None:
    """Sockets by their names, and more of what it may have: errors, and it goes on serving."""
    asked = [one for one in all_attempts if one.refused]
    with disks(world, 1, "vbd") as (guest,):
        attack(guest, asked)
        found = outcomes(world, guest, len(asked))
        assert found == [one.refused for one in asked]
        world.neighbour.works_on()


def test_turned_worker_without_a_filter_is_stopped_by_the_rest_of_the_jail(
    world: World, all_attempts: list[Attempt]
) -> None:
    """What the filter would have killed it for is refused by user id, namespaces or root."""
    asked = [one for one in all_attempts if one.logged]
    with disks(world, 1, "qdisk") as (guest,):
        attack(guest, asked)
        found = outcomes(world, guest, len(asked))
        wrong = [
            (str(one), errno.errorcode.get(number, number))
            for one, number in zip(asked, found, strict=True)
            if number not in one.logged
        ]
        assert wrong == []
        world.neighbour.works_on()


def test_turned_worker_cannot_speak_for_another(world: World) -> None:
    """It reaches the bus, and the kernel says who it is: killed, whomever it spoke for."""
    path = socket_path(world.lab.directory)
    with disks(world, 2, "vbd") as guests:
        names = (world.neighbour.device, guests[1].device)
        for guest, name in zip(guests, names, strict=True):
            attack(guest, [f"speak {path} {name}"])
        for guest, cause in zip(guests, ("speaks for", "second connection"), strict=True):

            def denounced(cause: str = cause, guest: Guest = guest) -> bool:
                return any(cause in text for text in events_of(world, guest))

            world.lab.wait(denounced, DEADLINE, cause)
            world.lab.wait_connected(guest.device)
            guest.works()
        world.neighbour.works_on()


KNOCK: Final = """
import errno, os, socket, sys
# Not before: Python may lie where only root comes.
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
for path in sys.argv[2:]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
        print(errno.errorcode.get(one.connect_ex(path), "open"))
"""


def test_other_user_of_the_host_reaches_no_socket(world: World) -> None:
    """Neither the command line's nor the workers', which is open to every user behind its door."""
    directory = world.lab.directory
    directory.chmod(0o711)  # as systemd makes the runtime directory
    sockets = [directory / "control.sock", directory / "events.sock", socket_path(directory)]
    assert sockets[2].stat().st_mode & 0o777 == 0o666
    done = subprocess.run(
        [sys.executable, "-c", KNOCK, str(STRANGER), *map(str, sockets)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["EACCES"] * 3
