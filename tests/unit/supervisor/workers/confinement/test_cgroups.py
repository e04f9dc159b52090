# SPDX-License-Identifier: MIT
"""Where workers' control groups are made and with which bounds, on files as the kernel has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from config.model import JailConfig
from shared.device_id import DeviceId
from supervisor.workers.confinement.cgroups import OURS, UNIT, UNITS, Cgroups

DEVICE = DeviceId("toy", 3, 51712)
BOUNDS = JailConfig(memory=64, pids=9, cpu_weight=50, io_weight=70)


class Tree:
    """A mounted tree, the group of this process in it, and whether systemd is there."""

    def __init__(self, root: Path, own: str, *, systemd: bool = False) -> None:
        self.mount, self.proc, self.systemd = root / "tree", root / "proc", root / "systemd"
        self.own = self.group(own)
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "self/cgroup").write_text(f"4:memory:/elsewhere\n0::{own}\n")
        (self.proc / "self/mountinfo").write_text(
            "22 1 0:20 / /proc rw - proc proc rw\n"
            f"41 31 0:38 / {self.mount} rw,relatime shared:9 - cgroup2 cgroup2 rw\n"
        )
        self.runs(os.getpid(), 50)
        if systemd:
            self.systemd.mkdir()

    def group(self, path: str, controllers: str = "cpuset cpu io memory pids") -> Path:
        """A group with the files of one that is not the root."""
        directory = self.mount / path.lstrip("/")
        directory.mkdir(parents=True)
        for name in ("cgroup.events", "cgroup.procs", "cgroup.subtree_control"):
            (directory / name).touch()
        (directory / "cgroup.controllers").write_text(controllers)
        return directory

    def runs(self, pid: int, parent: int) -> None:
        """A process."""
        (self.proc / str(pid)).mkdir()
        (self.proc / str(pid) / "stat").write_text(f"{pid} (a) b) S {parent} 1 1")

    def opened(self, above: Path | None = None) -> Cgroups:
        """As the supervisor does it; what the kernel would put into `above` is there."""
        made = Cgroups(Path("/run/xenbackd"), self.proc, self.systemd)
        if above is not None:
            self.group(str((above / made.name).relative_to(self.mount)))
            for child in (OURS, UNITS):
                (above / child).mkdir()
        made.open({})
        return made


def test_cgroups_root_of_the_tree_is_not_ours(tmp_path: Path) -> None:
    """It has no cgroup.events; nothing is made there."""
    tree = Tree(tmp_path, "/")
    (tree.mount / "cgroup.events").unlink()
    cgroups = tree.opened()
    assert "root of the tree" in cgroups.missing
    assert cgroups.make(DEVICE, 1, BOUNDS) is None
    assert not (tree.mount / OURS).exists()


@pytest.mark.parametrize(
    ("file", "cause"),
    [("mountinfo", "version 2 is not mounted"), ("cgroup", "this process is in none of version 2")],
)
def test_cgroups_without_version_2_say_so(tmp_path: Path, file: str, cause: str) -> None:
    """Neither a mount nor a membership."""
    tree = Tree(tmp_path, "/x")
    (tree.proc / "self" / file).write_text("")
    assert tree.opened().missing == cause


def test_cgroups_systemd_without_the_unit_gives_none(tmp_path: Path) -> None:
    """Our own unit's group is never used, nor one of the right name that is not marked."""
    tree = Tree(tmp_path, "/system.slice/xenbackd.service", systemd=True)
    assert UNIT in tree.opened().missing
    tree.group(f"/system.slice/{UNIT}")
    assert UNIT in tree.opened().missing


def test_cgroups_of_systemds_unit_are_used(tmp_path: Path) -> None:
    """Marked as delegated; its own process is put into a child, and ours stays where it is."""
    tree = Tree(tmp_path, "/system.slice/xenbackd.service", systemd=True)
    above = tree.group(f"/system.slice/{UNIT}")
    try:
        os.setxattr(above, "user.delegate", b"1")
    except OSError as error:
        pytest.skip(f"no attributes on this file system: {error}")
    (above / "cgroup.procs").write_text("4711\n")
    cgroups = tree.opened(above)
    assert cgroups.missing == ""
    assert (above / UNITS / "cgroup.procs").read_text() == "4711"
    assert not (tree.own / OURS).exists()


def test_cgroups_supervisor_leaves_with_its_children_and_no_one_else(tmp_path: Path) -> None:
    """Without systemd our own group becomes one without processes of ours."""
    tree = Tree(tmp_path, "/service")
    tree.runs(60, 1)
    tree.runs(61, os.getpid())
    (tree.own / "cgroup.procs").write_text(f"60\n61\n62\n{os.getpid()}\n")
    assert tree.opened(tree.own).missing == ""
    assert (tree.own / OURS / "cgroup.procs").read_text() == str(os.getpid())
    assert (tree.own / "cgroup.subtree_control").read_text() == "+io"


def test_cgroups_supervisor_in_its_child_already_uses_the_group_above(tmp_path: Path) -> None:
    """As after an upgrade, or where whoever started it knows the rule."""
    tree = Tree(tmp_path, f"/service/{OURS}")
    for name in ("cgroup.events", "cgroup.procs", "cgroup.subtree_control"):
        (tree.own.parent / name).touch()
    (tree.own.parent / "cgroup.controllers").write_text("memory")
    assert tree.opened().missing.endswith("cgroup.controllers: No such file or directory")
    assert [path.name for path in tree.own.iterdir() if path.is_dir()] == []


def test_cgroups_leaf_has_the_bounds_of_the_configuration(tmp_path: Path) -> None:
    """With those controllers that are there."""
    tree = Tree(tmp_path, "/service")
    cgroups = tree.opened(tree.own)
    # A file keeps only the last word that was written; the kernel adds them up.
    assert (tree.own / cgroups.name / "cgroup.subtree_control").read_text() == "+io"
    cgroups.controllers = ("memory", "pids", "io")
    leaf = cgroups.make(DEVICE, 7, BOUNDS)
    assert leaf is not None
    assert leaf.name == "toy-3-51712.7"
    assert {path.name: path.read_text() for path in leaf.iterdir()} == {
        "memory.max": str(64 << 20),
        "memory.oom.group": "1",
        "pids.max": "9",
        "io.weight": "default 70",
    }
    assert cgroups.of(DEVICE) == leaf
