# SPDX-License-Identifier: MIT
"""A control group (v2) for each worker, where the host gives us a part of the tree.

Source: the kernel's Documentation/admin-guide/cgroup-v2.rst. Two of its rules shape this module:
only the owner of a group may make groups in it (delegation), and a group that hands controllers
down to its children has no processes of its own ("no internal processes").

With systemd the leaves are in the group of the unit `xenbackd-workers.service`, beside our own
unit's. They are not in our own: as soon as that hands controllers down, systemd cannot start the
service again while workers live in it (EBUSY, exit status 219), which is just when it must. Without
systemd they are in the group we are in, which we leave for a child of it; but never in the root of
the whole tree.

Below that there is a directory for the runtime directory, so that two supervisors do not meet, and
in it one leaf per worker, named `<type>-<domid>-<devid>.<generation>`: what is left of a dead
worker cannot be in the way of the next one. The supervisor makes and removes leaves, the worker
enters its own.

Invariants:

- Each worker has a new leaf, which is removed when the worker is known dead. Processes that are
  still in it then (of a worker that could fork) are killed. Leaves without a living worker of an
  earlier supervisor are removed in the same way at the start.
- Without delegation nothing is done, and `missing` says why. Without one of the controllers the
  others are used.

Does not move workers and knows nothing of what they do.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

from config.model import JailConfig
from shared.device_id import DeviceId
from shared.errors import HostError

PROC: Final = Path("/proc")
SYSTEMD: Final = Path("/run/systemd/system")
"""Exists if systemd is process 1 (sd_booted(3))."""

UNIT: Final = "xenbackd-workers.service"
OURS: Final = "supervisor"
"""Group of the supervisor itself where systemd does not give it one."""
UNITS: Final = "unit"
"""Group of the unit's own process."""

CONTROLLERS: Final = ("memory", "pids", "cpu", "io")

_MARKS: Final = ("user.delegate", "trusted.delegate")
"""Attributes by which systemd marks a delegated group (its CGROUP_DELEGATION.md)."""


class Cgroups:
    """The leaves of one supervisor's workers."""

    def __init__(self, runtime_dir: Path, proc: Path = PROC, systemd: Path = SYSTEMD) -> None:
        digest = hashlib.blake2b(os.fsencode(runtime_dir), digest_size=4).hexdigest()
        self.name = f"xenbackd-{digest}"
        """Name of the group that has the leaves."""
        self._proc = proc
        self._systemd = systemd
        self._base: Path | None = None
        self._leaves: dict[DeviceId, Path] = {}
        self._dying: set[Path] = set()
        self.controllers: tuple[str, ...] = ()
        """Controllers that leaves have."""
        self.missing = "not opened"
        """Why there are no leaves; "" if there are."""

    def open(self, kept: Mapping[DeviceId, Path]) -> None:
        """Find our part of the tree and prepare it; `kept` are leaves of living workers."""
        self._leaves = dict(kept)
        try:
            above = self._delegated()
            self._make_room(above)
            base = above / self.name
            base.mkdir(exist_ok=True)
            _hand_down(above)
            self.controllers = _hand_down(base)
        except _NotOursError as error:
            self.missing = str(error)
            return
        except OSError as error:
            self.missing = f"{error.filename}: {error.strerror}"
            return
        self._base, self.missing = base, ""
        living = set(kept.values())
        for path in base.iterdir():
            if path.is_dir() and path not in living:
                self._end(path)

    def close(self) -> None:
        """Remove empty groups; leaves of living workers stay."""
        self._sweep()
        if self._base is not None:
            with contextlib.suppress(OSError):
                self._base.rmdir()

    def make(self, device: DeviceId, generation: int, config: JailConfig) -> Path | None:
        """A new leaf for the next worker of a device; None if there can be no leaves.

        Raises:
            HostError: it cannot be made or bounded.
        """
        self._sweep()
        if self._base is None:
            return None
        leaf = self._base / f"{device.type}-{device.domid}-{device.devid}.{generation}"
        try:
            if leaf.exists():  # of a device that was forgotten and has come back
                self._end(leaf)
            leaf.mkdir()
            for name, value in _bounds(config, self.controllers):
                (leaf / name).write_text(value)
        except OSError as error:
            raise HostError(
                f"control group of worker: {device}: {error.filename}: {error.strerror}"
            ) from error
        self._leaves[device] = leaf
        return leaf

    def of(self, device: DeviceId) -> Path | None:
        """The leaf of a device's worker."""
        return self._leaves.get(device)

    def release(self, device: DeviceId) -> None:
        """The device's worker is known dead. Idempotent."""
        leaf = self._leaves.pop(device, None)
        if leaf is not None:
            self._end(leaf)

    # --- the end of a leaf

    def _end(self, leaf: Path) -> None:
        """Kill what is in it and remove it; one that does not die at once is looked at later."""
        with contextlib.suppress(OSError):  # since Linux 5.14
            (leaf / "cgroup.kill").write_text("1")
        self._dying.add(leaf)
        self._sweep()

    def _sweep(self) -> None:
        for leaf in list(self._dying):
            try:
                leaf.rmdir()
            except FileNotFoundError:
                pass
            except OSError:  # somebody is still in it
                continue
            self._dying.discard(leaf)

    # --- our part of the tree

    def _delegated(self) -> Path:
        """The group that we may make groups in."""
        mount = _mount_of(self._proc)
        own = mount / _own_group(self._proc).lstrip("/")
        if self._systemd.exists():
            above = own.parent / UNIT
            if not any(_attribute(above, mark) == b"1" for mark in _MARKS):
                raise _NotOursError(f"systemd gives us none: {UNIT} does not run beside us")
            return above
        above = own.parent if own.name == OURS else own
        if not (above / "cgroup.events").exists():  # only the root has none
            raise _NotOursError(f"{above}: the root of the tree, which is everybody's")
        if not os.access(above / "cgroup.subtree_control", os.W_OK):
            raise _NotOursError(f"{above}: not ours to write")
        return above

    def _make_room(self, above: Path) -> None:
        """A group with children has no processes: move ours, or those of the unit, to a child."""
        units = self._systemd.exists()
        child = above / (UNITS if units else OURS)
        child.mkdir(exist_ok=True)
        ours = os.getpid()
        for pid in map(int, (above / "cgroup.procs").read_text().split()):
            if units or ours in _ancestry(self._proc, pid):
                with contextlib.suppress(ProcessLookupError):
                    (child / "cgroup.procs").write_text(str(pid))


class _NotOursError(Exception):
    pass


def _hand_down(group: Path) -> tuple[str, ...]:
    """Give the children of a group every controller it has; returns those that they then have."""
    available = (group / "cgroup.controllers").read_text().split()
    control = group / "cgroup.subtree_control"
    for name in CONTROLLERS:
        if name in available:
            # One by one: io may fail where cpu works. EBUSY: strangers are in the group.
            with contextlib.suppress(OSError):
                control.write_text(f"+{name}")
    given = control.read_text().split()
    return tuple(name for name in CONTROLLERS if name in given)


def _bounds(config: JailConfig, controllers: Collection[str]) -> Iterator[tuple[str, str]]:
    """Files of a leaf, and what to write to them."""
    if "memory" in controllers:
        yield "memory.max", str(config.memory << 20)
        # The kernel kills all of it or nothing: half a worker serves nobody.
        yield "memory.oom.group", "1"
    if "pids" in controllers:
        yield "pids.max", str(config.pids)
    if "cpu" in controllers:
        yield "cpu.weight", str(config.cpu_weight)
    if "io" in controllers:
        yield "io.weight", f"default {config.io_weight}"


def _mount_of(proc: Path) -> Path:
    """Where version 2 is mounted; on hybrid hosts beside version 1 (proc_pid_mountinfo(5))."""
    for line in (proc / "self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            return Path(before.split()[4])
    raise _NotOursError("version 2 is not mounted")


def _own_group(proc: Path) -> str:
    for line in (proc / "self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return line[3:]
    raise _NotOursError("this process is in none of version 2")


def _ancestry(proc: Path, pid: int) -> Iterator[int]:
    """A process, its parent, and so on."""
    while pid > 0:
        yield pid
        try:
            stat = (proc / str(pid) / "stat").read_text()
        except OSError:  # it has ended
            return
        pid = int(stat.rpartition(")")[2].split()[1])


def _attribute(path: Path, name: str) -> bytes:
    try:
        return os.getxattr(path, name)
    except OSError:
        return b""
