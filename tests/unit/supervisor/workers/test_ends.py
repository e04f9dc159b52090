# SPDX-License-Identifier: MIT
"""Whether a SIGKILL was the kernel's for want of memory, by files as cgroups v2 and v1 have."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.workers.ends import OomKills
from tests.fakes.clock_loop import in_clock_loop, settle
from tests.fakes.supervisor_world import TOY, world_of

V2 = ("0::/xenbackd", "xenbackd/memory.events")
V1 = ("5:cpu:/\n4:memory:/xenbackd\n0::/", "memory/xenbackd/memory.oom_control")


class Host:
    """Files as the kernel has them, below a directory of the test's."""

    def __init__(self, root: Path, membership: str, counter: str) -> None:
        self.proc, self.cgroups = root / "proc", root / "cgroup"
        self.membership = membership
        self.counter = self.cgroups / counter
        self.counter.parent.mkdir(parents=True)
        self.kills = OomKills(self.proc, self.cgroups)

    def forked(self, pid: int) -> None:
        """A process that is in the cgroup."""
        (self.proc / str(pid)).mkdir(parents=True)
        (self.proc / str(pid) / "cgroup").write_text(self.membership + "\n")
        self.kills.watch(pid)

    def count(self, value: int) -> None:
        """What the kernel counts."""
        self.counter.write_text(f"oom 9\noom_kill {value}\noom_group_kill 7\n")


@pytest.fixture(params=[V2, V1], ids=["v2", "v1"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    """One worker, 10, that was forked when the counter stood at 5."""
    made = Host(tmp_path, *request.param)
    made.count(5)
    made.forked(10)
    return made


def test_oom_counter_that_rose_is_the_kernels_kill(host: Host) -> None:
    """The counter stands higher than at the fork."""
    host.count(6)
    assert host.kills.claim(10)


def test_oom_counter_that_stayed_is_a_strangers_kill(host: Host) -> None:
    """Kills before the fork do not matter."""
    assert not host.kills.claim(10)


def test_oom_one_kill_explains_one_death(host: Host) -> None:
    """Two of a cgroup died of SIGKILL and the kernel counts one: the other was a stranger's."""
    host.forked(11)
    host.count(6)
    assert host.kills.claim(11)
    assert not host.kills.claim(10)


def test_oom_two_kills_explain_two_deaths(host: Host) -> None:
    """Both of a cgroup were killed before either was looked at."""
    host.forked(11)
    host.count(7)
    assert host.kills.claim(11)
    assert host.kills.claim(10)


def test_oom_forgotten_worker_explains_nothing(host: Host) -> None:
    """A process number that comes again starts from nothing."""
    host.kills.forget(10)
    host.count(6)
    assert not host.kills.claim(10)


def test_oom_host_without_memory_cgroups_knows_nothing(tmp_path: Path) -> None:
    """No counter, no process, nothing to read: never the kernel, never an error."""
    host = Host(tmp_path, *V2)
    host.forked(10)
    host.kills.watch(11)
    assert not host.kills.claim(10)
    assert not host.kills.claim(11)
    host.kills.forget(10)
    host.kills.forget(11)


@in_clock_loop
async def test_link_oom_has_its_word_and_counts(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Status says oom, the error says why, and the next one starts."""
    host = Host(tmp_path_factory.mktemp("oom"), *V2)
    host.count(0)
    world = await world_of()
    world.surroundings.oom = host.kills
    for pid in range(4001, 4003):
        (host.proc / str(pid)).mkdir(parents=True)
        (host.proc / str(pid) / "cgroup").write_text(V2[0])
    await world.serving()
    host.count(1)
    world.workers.exits(TOY, -9)
    await settle()
    assert (world.status().last_failure, world.status().failures) == ("oom", 1)
    assert "for want of memory" in world.status().error
    assert world.workers.starts == [(TOY, 1), (TOY, 2)]


def test_oom_worker_with_a_group_of_its_own_is_judged_by_that(host: Host, tmp_path: Path) -> None:
    """It enters the group after the fork, and what happens in the others' is none of it."""
    leaf = tmp_path / "leaf"
    leaf.mkdir()
    (leaf / "memory.events").write_text("oom_kill 0\n")
    host.kills.watch(20, leaf)
    host.count(6)
    assert not host.kills.claim(20)
    (leaf / "memory.events").write_text("oom_kill 3\noom_group_kill 1\n")
    assert host.kills.claim(20)


def test_oom_group_that_does_not_count_leaves_the_one_of_the_fork(
    host: Host, tmp_path: Path
) -> None:
    """No memory controller in version 2, as on hybrid hosts."""
    (host.proc / "20").mkdir()
    (host.proc / "20" / "cgroup").write_text(host.membership + "\n")
    host.kills.watch(20, tmp_path / "no such")
    host.count(6)
    assert host.kills.claim(20)
