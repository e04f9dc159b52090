# SPDX-License-Identifier: MIT
"""What the spawner does before it forks."""

from __future__ import annotations

from pathlib import Path

from shared.device_id import DeviceId
from shared.errors import HostError
from supervisor.workers.locks import LOCK_PATIENCE, LOCK_RETRY
from supervisor.workers.spawner import Spawner
from tests.fakes.clock_loop import in_clock_loop, pass_time
from tests.fakes.supervisor_world import TOY, spec_of


class HeldLocks:
    """Somebody has every lock, and cannot be found or killed."""

    def __init__(self) -> None:
        self.asked = self.searched = 0

    def lock(self, device: DeviceId) -> None:
        self.asked += 1

    def holders(self, device: DeviceId) -> list[int]:
        self.searched += 1
        return []


class Owner:
    """Hears that a worker is over."""

    def __init__(self) -> None:
        self.exits: list[int | None] = []

    def worker_forked(self, pid: int) -> None:
        raise AssertionError("nothing may be forked")

    def worker_exited(self, status: int | None) -> None:
        self.exits.append(status)

    def worker_not_started(self, error: HostError) -> None:
        raise AssertionError(error)


@in_clock_loop
async def test_spawner_holder_that_cannot_be_killed_is_searched_for_less_and_less() -> None:
    """A search reads the descriptors of all processes; the lock itself is looked at as ever."""
    locks, owner = HeldLocks(), Owner()
    spawner = Spawner(parallel=1, locks=locks, directory=Path("/nowhere"))
    spawner.start(spec_of(TOY), owner)
    await pass_time(16 * LOCK_PATIENCE * LOCK_RETRY)
    assert locks.asked > 15 * LOCK_PATIENCE
    assert 4 <= locks.searched <= 5
    spawner.kill(TOY)
    await pass_time(1)
    assert owner.exits == [0]
