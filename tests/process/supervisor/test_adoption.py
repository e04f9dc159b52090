# SPDX-License-Identifier: MIT
"""A supervisor that is killed, the workers that live on, and the next one that adopts them.

What changes while there is no supervisor is treated as if it had been seen. A neighbour's I/O goes
on all the time in the worker it began with (`Neighbour.works_on`).
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from bench.lab import processes
from embedded.toolstack import request_close
from shared.control import DeviceStatus
from shared.device_id import DeviceId
from shared.errors import HostError
from shared.xenbus import XenbusState
from supervisor.workers.confinement.door import socket_path
from supervisor.workers.records import Records
from tests.process.lab_world import CONFIG, DEADLINE, Guest, World, running_world
from worker.devices.block.guest.load import LoadConfig

FAST: dict[str, Any] = {
    **CONFIG,
    "timeouts": {"beat": 0.1, "beat_dead": 10, "hello": 3},
    "restart": {"initial": 0.05, "max": 0.2},
}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A hypervisor that survives the supervisor, and a neighbour."""
    with running_world(FAST, own_hypervisor=True) as it:
        yield it


@contextmanager
def no_supervisor(world: World) -> Iterator[None]:
    """kill -9 it, do something meanwhile, start another one; the neighbour's worker is adopted."""
    world.lab.stop_supervisor(signal.SIGKILL)
    yield
    world.lab.start_supervisor()
    now = world.lab.wait_connected(world.neighbour.device)
    assert now.pid == world.neighbour.pid
    world.neighbour.works_on()


@contextmanager
def connected(world: World, **options: Any) -> Iterator[tuple[Guest, DeviceStatus]]:
    """A guest with a connected disk that works."""
    with world.guest(**options) as guest:
        guest.disk.connect(DEADLINE)
        guest.works()
        yield guest, world.lab.wait_connected(guest.device)


def forgotten(world: World, guest: Guest) -> None:
    """Wait until nothing of the device is left: device, worker, file, lock."""
    world.lab.wait(lambda: world.lab.device(guest.device) is None, DEADLINE, "forgotten")
    name = guest.device.replace("/", "-")
    assert not list((world.lab.directory / "workers").glob(f"{name}*"))


def state(world: World, guest: Guest) -> bytes | None:
    """The backend's state, None while xenstored is away."""
    try:
        with world.lab.xenstore() as store:
            return store.read(f"{guest.backend}/state")
    except HostError:
        return None


def test_adoption_under_io_the_guest_is_served_without_a_supervisor(world: World) -> None:
    """I/O begins and ends while there is no supervisor; the same worker is adopted, no state is
    written and nothing is restarted."""
    with connected(world) as (guest, before):
        load = LoadConfig(rw="randrw", depth=8, total=2048 * 4096, verify=True, size=1 << 20)
        with no_supervisor(world):
            assert guest.disk.run_load(load).ok
        now = world.lab.wait_connected(guest.device)
        assert (now.pid, now.generation, now.error) == (before.pid, 1, "")
        guest.works()
        after_kill = [line for line in world.log_of(guest) if "-> " in line]
        assert sum("Connected ->" in line for line in after_kill) == 0


def test_adoption_supervisor_killed_twice_the_second_time_while_it_starts(world: World) -> None:
    """The second one dies as soon as it listens; the third one adopts all the same."""
    with connected(world) as (guest, before):
        with no_supervisor(world):
            socket = socket_path(world.lab.directory)
            socket.unlink(missing_ok=True)
            process = world.lab.launch()
            world.lab.wait(socket.exists, DEADLINE, "the second one to listen", 0.001)
            process.kill()
            process.wait()
            guest.works()
        now = world.lab.wait_connected(guest.device)
        assert (now.pid, now.generation) == (before.pid, 1)


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.15])
def test_adoption_supervisor_killed_while_workers_start_never_two_on_one_device(
    world: World, delay: float
) -> None:
    """Wherever the starts are, afterwards each device is served by the one holder of its lock."""
    with ExitStack() as stack:
        guests = [stack.enter_context(world.guest()) for _ in range(3)]
        select.select([], [], [], delay)
        with no_supervisor(world):
            pass
        records = Records(world.lab.directory)
        for guest in guests:
            guest.disk.connect(DEADLINE)
            guest.works()
            now = world.lab.wait_connected(guest.device)
            assert records.holders(DeviceId.parse(guest.device)) == [now.pid]


def test_adoption_before_the_frontend_connects(world: World) -> None:
    """InitWait: the worker that opened the image is adopted and then given the ring."""
    with world.guest() as guest:
        guest.wait_backend(XenbusState.INIT_WAIT)
        before = world.lab.wait_device(guest.device, lambda now: now.phase == "ready")
        with no_supervisor(world):
            pass
        guest.disk.connect(DEADLINE)
        guest.works()
        now = world.lab.wait_connected(guest.device)
        assert (now.pid, now.generation) == (before.pid, 1)


def test_adoption_while_closing_serves_the_last_writes(world: World) -> None:
    """Closing: the adopted worker is still there for the mounted disk, then all is given back."""
    with connected(world) as (guest, before):
        request_close(guest.dom0, guest.backend)
        guest.wait_backend(XenbusState.CLOSING)
        with no_supervisor(world):
            pass
        guest.works()
        now = world.lab.wait_device(guest.device, lambda now: now.phase == "serving")
        assert (now.pid, now.backend) == (before.pid, "Closing")
        guest.disk.advance()
        guest.wait_backend(XenbusState.CLOSED)
        guest.disk.reclaim()
        assert guest.disk.leaked_pages == 0


def test_adoption_frontend_that_closed_meanwhile_is_followed(world: World) -> None:
    """The frontend went to Closing: the ring is let go, the backend follows."""
    with connected(world) as (guest, _):
        with no_supervisor(world):
            guest.disk.begin_close()
        guest.disk.close(DEADLINE)
        guest.wait_backend(XenbusState.CLOSED)
        guest.disk.reclaim()
        assert guest.disk.leaked_pages == 0
        guest.disk.restart()
        guest.disk.connect(DEADLINE)
        guest.works()


def test_adoption_frontend_that_rebooted_meanwhile_connects_anew(world: World) -> None:
    """Initialising without a word: detached, reset, and the new kernel's ring is attached."""
    with connected(world) as (guest, before):
        with no_supervisor(world):
            guest.disk.restart()
        guest.disk.connect(DEADLINE)
        guest.works()
        now = world.lab.wait_connected(guest.device)
        assert now.pid == before.pid


def test_adoption_domain_that_died_meanwhile_is_forgotten(world: World) -> None:
    """The guest is gone: its worker ends in order, nothing is left."""
    with ExitStack() as stack:
        guest, before = stack.enter_context(connected(world))
        with no_supervisor(world):
            stack.close()
        forgotten(world, guest)
        world.lab.wait(lambda: not processes([before.pid or 0]), DEADLINE, "its worker's end")


def test_adoption_backend_directory_that_went_meanwhile_is_forgotten(world: World) -> None:
    """Unplugged by force: the worker ends in order, and nothing is written any more."""
    with connected(world) as (guest, before):
        with no_supervisor(world):
            guest.dom0.rm(guest.backend)
        forgotten(world, guest)
        world.lab.wait(lambda: not processes([before.pid or 0]), DEADLINE, "its worker's end")
        assert guest.dom0.read_or_none(f"{guest.backend}/state") is None


def test_adoption_type_switched_off_meanwhile_closes_in_order(world: World) -> None:
    """Its device is adopted to be closed: Closing, served until the frontend follows, gone."""
    with connected(world, kind="qdisk") as (guest, before):
        with no_supervisor(world):
            world.lab.write_config({**FAST, "types": {"vbd": {"handler": "block"}}})
        try:
            guest.wait_backend(XenbusState.CLOSING)
            guest.works()
            now = world.lab.wait_device(guest.device, lambda now: now.phase == "serving")
            assert now.pid == before.pid
            guest.disk.advance()
            guest.wait_backend(XenbusState.CLOSED)
            forgotten(world, guest)
        finally:
            with no_supervisor(world):
                world.lab.write_config(FAST)


def test_adoption_options_changed_meanwhile_are_for_the_next_worker(world: World) -> None:
    """As with `reload`: the adopted worker keeps its options, its successor has the new ones."""
    with connected(world) as (guest, before):
        changed = {"handler": "block", "options": {"grants": "copy"}}
        with no_supervisor(world):
            world.lab.write_config({**FAST, "types": {"vbd": changed}})
        now = world.lab.wait_connected(guest.device)
        assert now.pid == before.pid
        assert any("options it was started with" in line for line in world.log_of(guest))
        with no_supervisor(world):
            world.lab.write_config(FAST)


def test_adoption_worker_that_died_meanwhile_is_succeeded(world: World) -> None:
    """Killed while nobody looked: the next supervisor starts a successor on the live ring."""
    with connected(world) as (guest, before):
        with no_supervisor(world):
            assert before.pid is not None
            os.kill(before.pid, signal.SIGKILL)
        now = world.lab.wait_connected(guest.device)
        assert now.pid != before.pid
        guest.works()


def test_adoption_worker_that_dies_afterwards_is_succeeded(world: World) -> None:
    """Nobody learns the exit status of an adopted worker: it counts as a crash."""
    with connected(world) as (guest, before):
        with no_supervisor(world):
            pass
        now = world.lab.wait_connected(guest.device)
        assert now.pid == before.pid
        assert before.pid is not None
        os.kill(before.pid, signal.SIGKILL)
        world.lab.wait_device(guest.device, lambda now: now.generation == 2)
        assert world.lab.wait_connected(guest.device).failures == 1
        guest.works()


def test_xenstored_killed_under_io_touches_no_device(world: World) -> None:
    """xenstored dies and comes back: same workers, no state written, watches work as before."""
    with connected(world) as (guest, before):
        reconnects = world.lab.status().resources["xenstore_reconnects"]
        pid_file = world.lab.embedded_dir / "xenstored.pid"
        load = LoadConfig(rw="randrw", depth=8, total=2048 * 4096, verify=True, size=1 << 20)
        for killed in range(1, 3):
            os.kill(int(pid_file.read_text()), signal.SIGKILL)
            assert guest.disk.run_load(load).ok
            world.lab.wait(
                lambda wanted=reconnects + killed: (  # type: ignore[misc]
                    world.lab.answers()
                    and world.lab.status().resources["xenstore_reconnects"] >= wanted
                ),
                DEADLINE,
                "the supervisor's reconnection",
            )
        now = world.lab.wait_connected(guest.device)
        assert (now.pid, now.generation, now.error) == (before.pid, 1, "")
        assert not [
            line for line in world.log_of(guest) if "Connected ->" in line.split(": ", 1)[1]
        ]
        world.neighbour.works_on()
        with connected(world):  # found by a watch that was set anew
            pass


def test_xenstored_and_supervisor_killed_together_under_io(world: World) -> None:
    """The next supervisor finds xenstored as it comes back, and adopts."""
    with connected(world) as (guest, before):
        with no_supervisor(world):
            os.kill(int((world.lab.embedded_dir / "xenstored.pid").read_text()), signal.SIGKILL)
            guest.works()
            world.lab.wait(lambda: state(world, guest) == b"4", DEADLINE, "xenstored")
        now = world.lab.wait_connected(guest.device)
        assert (now.pid, now.generation) == (before.pid, 1)
