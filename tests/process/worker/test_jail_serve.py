# SPDX-License-Identifier: MIT
"""Jailed workers under `xenbackd serve`: by default, told to the operator, over a medium change."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.control import Show, ShowReply
from shared.scheduling import LONG, SHORTEST
from tests.fakes.scheduler import SLICES, slice_of
from tests.process.lab_world import CONFIG, DEADLINE, Guest, World, running_world
from worker.devices.block.guest.load import LoadConfig

SEALED = {"handler": "block", "options": {"grants": "sealed"}}

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A running xenbackd with a neighbour and the default jail; the hypervisor outlives it."""
    with running_world(
        {**CONFIG, "types": {"vbd": {"handler": "block"}, "qdisk": SEALED}}, own_hypervisor=True
    ) as it:
        yield it


def test_jail_is_on_by_default_and_shown(world: World) -> None:
    """`status` and `show` say step by step what confines a worker, and what does not."""
    device = world.neighbour.device
    status = world.lab.device(device)
    assert status is not None
    steps = status.jail
    assert any("system calls of block on embedded only; any other kills" in one for one in steps)
    reply = world.ask(Show(device), ShowReply)
    assert reply.device.jail == steps
    shown = world.lab.must("show", device)
    assert "jail of the worker, as it says" in shown
    assert "no new privileges" in shown


@needs_root
def test_jail_gives_each_worker_a_user_id_of_its_own(world: World) -> None:
    """Two workers share neither user nor group; the supervisor and the fork server stay root."""
    with world.untouched(), world.guest() as guest:
        guest.disk.connect(DEADLINE)
        pid = world.lab.wait_connected(guest.device).pid
        owners = {Path(f"/proc/{one}/environ").stat().st_uid for one in (pid, world.neighbour.pid)}
        uids = {_field(one, "Uid") for one in (pid, world.neighbour.pid)}

        assert owners == {0}  # not dumpable: what /proc shows of it is root's
        assert len(uids) == 2
        assert 0 not in uids


@needs_root
def test_jail_leaves_a_worker_only_the_files_of_its_own_device(world: World) -> None:
    """Image, journal and lock, no pipe of the fork server's: who writes to one would end it."""
    fds = Path(f"/proc/{world.neighbour.pid}/fd")
    links = {int(one.name): str(one.readlink()) for one in fds.iterdir()}
    log = links.pop(2)
    name = world.neighbour.device.replace("/", "-")

    assert (links.pop(0), links.pop(1)) == ("/dev/null", log)
    assert not [link for link in links.values() if link.startswith("pipe:")]
    files = sorted(Path(link).name for link in links.values() if link.startswith("/"))
    assert [file for file in files if "memfd" not in file and "(deleted)" not in file] == sorted(
        ["1.img", name, f"{name}.lock"]
    )


def test_jail_medium_changed_while_closed_is_served_by_a_successor(world: World) -> None:
    """The worker cannot open the other image: it is replaced at once, which is no failure."""
    with world.untouched(), world.guest() as guest:
        guest.disk.connect(DEADLINE)
        first = world.lab.wait_connected(guest.device)
        guest.disk.reconnect(DEADLINE)
        again = world.lab.wait_connected(guest.device)
        assert (again.pid, again.generation) == (first.pid, 1)

        image = world.image()
        guest.disk.close(DEADLINE)
        guest.dom0.write(f"{guest.backend}/params", f"aio:{image}".encode())
        guest.disk.reconnect(DEADLINE)
        assert guest.disk.read(0, 8) == image.read_bytes()[:4096]
        guest.works()
        second = world.lab.wait_connected(guest.device)
        assert second.pid != first.pid
        assert (second.generation, second.failures, second.error) == (2, 0, "")


def test_jail_seals_grants_once_all_pages_were_seen(world: World) -> None:
    """A ring used to the full shows all its pages; I/O then goes on without the right to map.

    The right is gone for ever, so who connects anew gets another worker, which is no failure.
    """
    all_pages = LoadConfig(rw="read", block_size=45056, depth=64, total=640 * 45056, data_pages=704)
    with world.untouched(), world.guest(kind="qdisk") as guest:
        assert guest.disk.connect(DEADLINE).slots == 64  # four pages more could not be kept mapped
        assert guest.disk.run_load(all_pages).ok
        world.lab.wait_device(
            guest.device,
            lambda one: _sealed(world, guest) and one.counters.get("persistent_grants") == 704,
        )
        guest.works()

        guest.disk.reconnect(DEADLINE)
        guest.works()
        second = world.lab.wait_connected(guest.device)
        assert (second.generation, second.failures) == (2, 0)


def _sealed(world: World, guest: Guest) -> bool:
    return any("grants: sealed, 704 mapped" in line for line in world.log_of(guest))


def test_jail_is_told_again_to_the_supervisor_that_adopts(world: World) -> None:
    """A jailed worker connects anew from inside, as the user it is, and says what confines it."""
    lab, device = world.lab, world.neighbour.device
    before = lab.device(device)
    assert before is not None
    parent = _field(before.pid, "PPid")
    lab.stop_supervisor(signal.SIGKILL)
    lab.start_supervisor()
    after = lab.wait_device(device, lambda now: bool(now.jail))

    assert (after.pid, after.jail) == (before.pid, before.jail)
    assert _field(after.pid, "PPid") == parent  # the fork server stays to reap it
    world.neighbour.works_on()


@needs_root
def test_jail_puts_workers_into_one_network_namespace_with_nothing_in_it(world: World) -> None:
    """To take one down is dear, so there is one; it is not the supervisor's, and no worker keeps a
    descriptor by which it could be entered."""
    supervisor = world.lab.supervisor
    assert supervisor is not None
    with world.guest() as one, world.guest() as other:
        pids = []
        for guest in (one, other):
            guest.disk.connect(DEADLINE)
            pids.append(world.lab.wait_connected(guest.device).pid)
        networks = {Path(f"/proc/{pid}/ns/net").readlink() for pid in pids}
        outside = {supervisor.pid, _field(pids[0], "PPid")}

        assert len(networks) == 1
        assert networks.isdisjoint(Path(f"/proc/{pid}/ns/net").readlink() for pid in outside)
        _, _, *interfaces = Path(f"/proc/{pids[0]}/net/dev").read_text().splitlines()
        assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]
        for pid in pids:
            files = {str(file.readlink()) for file in Path(f"/proc/{pid}/fd").iterdir()}
            assert not [file for file in files if file.startswith("net:")]


def _field(pid: int | None, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def test_worker_that_serves_may_use_all_cpus_again(world: World) -> None:
    """It kept to one while it started; now each of its threads runs where the supervisor may."""
    assert world.lab.supervisor is not None
    allowed = os.sched_getaffinity(world.lab.supervisor.pid)
    tasks = Path(f"/proc/{world.neighbour.pid}/task").iterdir()
    assert {frozenset(os.sched_getaffinity(int(one.name))) for one in tasks} == {frozenset(allowed)}


@pytest.mark.skipif(not SLICES, reason="this kernel has no slices to ask for")
def test_supervisor_and_fork_server_go_after_workers_that_serve(world: World) -> None:
    """They have a slice longer than usual, a serving worker the shortest."""
    serving = world.neighbour.pid
    supervisor = world.lab.supervisor
    assert supervisor is not None
    long = {slice_of(supervisor.pid), slice_of(_field(serving, "PPid"))}

    assert long == {LONG}
    assert slice_of(serving) == SHORTEST < slice_of(0) < LONG
