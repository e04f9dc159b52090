# SPDX-License-Identifier: MIT
"""Control groups of real workers, in a part of the kernel's tree that the test makes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.lab import Lab
from supervisor.workers.confinement.cgroups import OURS, SYSTEMD
from tests.fakes.waiting import wait_until
from tests.process.lab_world import CONFIG, DEADLINE, World


def group_of(pid: int) -> str:
    """The group a process is in, as a path below the mount."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next(line[3:] for line in lines if line.startswith("0::"))


def score_of(pid: int) -> int:
    """How willingly the kernel kills a process when memory is short."""
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def mount() -> Path | None:
    """Where version 2 of the control groups is mounted."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            return Path(before.split()[4])
    return None


@pytest.fixture
def part() -> Iterator[Path]:
    """A group for a supervisor; skips where none can be made, or only systemd may."""
    root = mount()
    if root is None or SYSTEMD.exists():
        pytest.skip("no version 2, or it is systemd's")
    made = root / group_of(os.getpid()).lstrip("/") / f"xbd-{os.getpid()}"
    try:
        made.mkdir()
    except OSError as error:
        pytest.skip(f"no group can be made: {error}")
    try:
        yield made
    finally:
        children = [made / OURS]
        wait_until(lambda: not (made / OURS / "cgroup.procs").read_text(), "the group to be empty")
        for child in children:
            child.rmdir()
        made.rmdir()


class GroupLab(Lab):
    """Starts `serve` in a group."""

    part: Path

    @property
    def command(self) -> list[str]:
        # Spared as its unit has it, where that is allowed.
        spare = "{ echo -500 > /proc/self/oom_score_adj; } 2>/dev/null"
        script = f'{spare}; echo $$ > {self.part}/cgroup.procs && exec "$0" "$@"'
        return ["sh", "-c", script, *super().command]


def test_jail_cgroups_each_worker_has_a_leaf_for_its_life(part: Path) -> None:
    """Made before it, removed after it, kept by a supervisor that adopts it; strange ones go."""
    lab = GroupLab(CONFIG, own_hypervisor=True)
    lab.part = part
    with lab:
        world = World(lab)
        with world.guest() as guest:
            guest.disk.connect(DEADLINE)
            first = lab.wait_connected(guest.device)
            assert lab.supervisor is not None
            assert first.pid is not None
            assert group_of(lab.supervisor.pid).endswith(f"/{part.name}/{OURS}")
            assert max(0, score_of(lab.supervisor.pid)) == score_of(first.pid)
            name = guest.device.replace("/", "-")
            leaf = Path(group_of(first.pid))
            assert leaf.name == f"{name}.1"
            leaves = part / leaf.parent.name
            assert [path.name for path in leaves.iterdir() if path.is_dir()] == [leaf.name]

            os.kill(first.pid, signal.SIGKILL)
            lab.wait(
                lambda: {path.name for path in leaves.iterdir() if path.is_dir()} == {f"{name}.2"},
                DEADLINE,
                "the leaf of the dead to be replaced",
            )
            second = lab.wait_connected(guest.device)
            guest.works()

            lab.stop_supervisor(signal.SIGKILL)
            (leaves / "strange").mkdir()
            lab.start_supervisor()
            now = lab.wait_connected(guest.device)
            assert (now.pid, now.generation) == (second.pid, 2)
            assert {path.name for path in leaves.iterdir() if path.is_dir()} == {f"{name}.2"}
            guest.works()
        lab.stop_supervisor()
        assert not leaves.exists()
