# SPDX-License-Identifier: MIT
"""Real workers that die of a signal or hang: what they are called, what the log says, who serves.

The guest's disk works after each of them, but for a forbidden system call.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from shared.control import Clear, Done, Event, Events, EventsReply
from tests.process.lab_world import CONFIG, DEADLINE, Guest, World, running_world

TIMEOUTS = {"beat": 0.1, "beat_late": 1, "beat_dead": 5, "abort": 0.3}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A running xenbackd with a neighbour; a worker is soon late and soon dead."""
    config = {**CONFIG, "timeouts": TIMEOUTS, "restart": {"initial": 0.05, "max": 0.2}}
    with running_world(config) as it:
        yield it


def signalled(world: World, guest: Guest, number: signal.Signals) -> int:
    """Connect, and send a signal to the worker; its pid."""
    guest.disk.connect(DEADLINE)
    guest.works()
    pid = world.lab.wait_connected(guest.device).pid
    assert pid is not None
    os.kill(pid, number)
    return pid


def events(world: World, guest: Guest) -> list[Event]:
    """The device's events."""
    every = world.ask(Events(count=100), EventsReply).events
    return [event for event in every if event.device == guest.device]


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (signal.SIGKILL, "killed"),
        (signal.SIGSEGV, "crash"),
        (signal.SIGABRT, "crash"),
        (signal.SIGBUS, "crash"),
        (signal.SIGTERM, "crash"),
    ],
)
def test_supervision_worker_killed_by_a_signal_is_followed_by_another(
    world: World, number: signal.Signals, kind: str
) -> None:
    """The kind is in the status, the signal's name in the log, and the guest sees a pause."""
    with world.untouched(), world.guest() as guest:
        signalled(world, guest, number)
        world.lab.wait_device(
            guest.device, lambda now: now.generation == 2 and now.phase == "serving"
        )
        guest.works()
        now = world.lab.wait_connected(guest.device)
        assert (now.failures, now.last_failure, now.restarts) == (1, kind, 1)
        assert any(f"killed by {number.name}" in line for line in world.log_of(guest))


def test_supervision_worker_that_aborts_writes_both_stacks(world: World) -> None:
    """The Python stack down to the call of the ring loop, then the frames of that loop in C."""
    with world.untouched(), world.guest() as guest:
        before = len(world.lab.log())
        signalled(world, guest, signal.SIGABRT)
        world.lab.wait_device(guest.device, lambda now: now.generation == 2)
        log = world.lab.log()[before:]
        python, _, native = log.partition("Native trace")
        assert "Fatal Python error: Aborted" in python
        assert "worker/devices/block/backend.py" in python
        assert "in run" in python
        assert "(blk_run+" in native
        assert "_block" in native


def test_supervision_stopped_worker_is_late_then_dead_then_followed(world: World) -> None:
    """SIGSTOP: late in the events, SIGABRT does nothing to it, SIGKILL does; a hang that counts."""
    with world.untouched(), world.guest() as guest:
        pid = signalled(world, guest, signal.SIGSTOP)
        world.lab.wait_device(guest.device, lambda now: now.health == "late" and now.pid == pid)
        world.lab.wait_device(
            guest.device, lambda now: now.generation == 2 and now.phase == "serving"
        )
        guest.works()
        now = world.lab.wait_connected(guest.device)
        assert (now.failures, now.last_failure, now.health) == (1, "hang", "")
        told = events(world, guest)
        assert any(one.kind == "late" and "no beat for" in one.text for one in told)
        assert any(one.kind == "error" and "no beat for 5 s" in one.text for one in told)


def test_supervision_worker_stopped_for_a_moment_lives_on(world: World) -> None:
    """SIGSTOP and SIGCONT before it is dead: late, then well, in the same process."""
    with world.untouched(), world.guest() as guest:
        pid = signalled(world, guest, signal.SIGSTOP)
        world.lab.wait_device(guest.device, lambda now: now.health == "late")
        os.kill(pid, signal.SIGCONT)
        now = world.lab.wait_device(guest.device, lambda now: now.health == "")
        assert (now.pid, now.failures) == (pid, 0)
        guest.works()
        assert any("beats again" in one.text for one in events(world, guest))


def test_supervision_forbidden_system_call_is_quarantine_until_cleared(world: World) -> None:
    """SIGSYS: held at once, loud, and served again after `clear`."""
    with world.untouched(), world.guest() as guest:
        signalled(world, guest, signal.SIGSYS)
        held = world.lab.wait_device(guest.device, lambda now: now.hold == "quarantined")
        assert (held.generation, held.last_failure) == (1, "security")
        assert any(
            one.kind == "error" and one.text.startswith("security: ")
            for one in events(world, guest)
        )
        text = world.ask(Clear(device=guest.device), Done).text
        assert "quarantined ended" in text
        guest.works()
        now = world.lab.wait_connected(guest.device)
        assert (now.hold, now.failures, now.last_failure) == ("", 0, "")
