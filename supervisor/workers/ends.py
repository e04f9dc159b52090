# SPDX-License-Identifier: MIT
"""How a worker ends: by signals of ours, by the kernel's for lack of memory, or not at all.

A worker that hangs is sent SIGABRT, at which it writes where it stands, and then SIGKILL. One in
uninterruptible sleep (D state: a disk or file server that does not answer) dies when its system
call returns, and not before. Nothing may take its place until then.

SIGKILL does not say who sent it. The kernel counts its own kills per control group, including those
for a shortage of the whole host: `oom_kill` in `memory.events` of cgroup v2 and in
`memory.oom_control` of v1 (its Documentation/admin-guide, cgroup-v2.rst and cgroup-v1/memory.rst).
It raises the count before it sends the signal. So the count is read when a worker is forked, and
again when one died of SIGKILL.

A worker with a control group of its own (`supervisor.workers.confinement.cgroups`) enters it by
itself, after the fork, so its path is passed in. Several workers may share a group. Then a rise
says how many were killed, not which: each rise is assigned to one worker that died of SIGKILL.
Where there is no memory controller nothing is known, and a SIGKILL counts as sent by a stranger.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from supervisor.policy.exits import classify
from supervisor.policy.restart import ExitKind
from supervisor.timer import Timer

PROC: Final = Path("/proc")
CGROUPS: Final = Path("/sys/fs/cgroup")

KILL_PATIENCE: Final = 10.0
"""Seconds after SIGKILL within which a process should be dead."""


def kind_of(status: int | None, *, asked_to_stop: bool, by_kernel: Callable[[], bool]) -> ExitKind:
    """What an exit status means when the worker had not failed before.

    `by_kernel` says whether a SIGKILL was the kernel's for lack of memory.
    """
    if asked_to_stop:
        return ExitKind.CLEAN
    kind = classify(status)
    if kind is ExitKind.CLEAN:
        return ExitKind.CRASH  # nobody asked it to end
    if kind is ExitKind.KILLED and by_kernel():
        return ExitKind.OOM
    return kind


class Ending:
    """Ends the worker of one device by force.

    `unkillable` says that it has outlived SIGKILL by `KILL_PATIENCE` seconds; `alarm` is called
    once for each worker that does.
    """

    def __init__(
        self, abort: Callable[[], None], kill: Callable[[], None], alarm: Callable[[], None]
    ) -> None:
        self._send_abort = abort
        self._send_kill = kill
        self._alarm = alarm
        self._grace, self._patience = Timer(), Timer()
        self._killed = False
        self.begun = False
        """It was sent SIGKILL, or SIGABRT with SIGKILL to follow."""
        self.unkillable = False

    def begin(self) -> None:
        """Another worker is started."""
        self.begun = False

    def abort(self, grace: float) -> None:
        """Send SIGABRT, and SIGKILL after `grace` seconds."""
        self.begun = True
        self._send_abort()
        self._grace.set(grace, self.kill)

    def kill(self) -> None:
        """Send SIGKILL. May be called more than once."""
        self.begun = True
        self._grace.cancel()
        if not self._killed:
            self._killed = True
            self._patience.set(KILL_PATIENCE, self._overdue)
        self._send_kill()

    def over(self) -> None:
        """It is dead, or its device is over."""
        self._grace.cancel()
        self._patience.cancel()
        self._killed = self.unkillable = False

    def _overdue(self) -> None:
        self.unkillable = True
        self._alarm()


class OomKills:
    """The kernel's counts for the control groups that workers run in."""

    def __init__(self, proc: Path = PROC, cgroups: Path = CGROUPS) -> None:
        self._proc = proc
        self._cgroups = cgroups
        self._workers: dict[int, tuple[Path, int]] = {}
        self._claimed: dict[Path, int] = {}
        """How far the rises of each count have been assigned to workers."""

    def watch(self, pid: int, leaf: Path | None = None) -> None:
        """A worker was forked: note the present count; `leaf` is a control group of its own."""
        own = [] if leaf is None else [leaf / "memory.events"]
        for path in [*own, *self._counters(pid)]:
            count = _read(path)
            if count is not None:
                self._workers[pid] = (path, count)
                return

    def claim(self, pid: int) -> bool:
        """A worker died of SIGKILL: whether the kernel sent it for lack of memory."""
        if pid not in self._workers:
            return False
        path, before = self._workers[pid]
        known = max(before, self._claimed.get(path, 0))
        if (_read(path) or 0) <= known:
            return False
        self._claimed[path] = known + 1
        return True

    def forget(self, pid: int) -> None:
        """The worker is over."""
        path, _ = self._workers.pop(pid, (None, 0))
        if path is not None and all(other != path for other, _ in self._workers.values()):
            self._claimed.pop(path, None)

    def _counters(self, pid: int) -> list[Path]:
        """Files that may hold the count: lines of /proc/PID/cgroup are `id:controllers:path`."""
        try:
            lines = (self._proc / str(pid) / "cgroup").read_text().splitlines()
        except OSError:  # dead already
            return []
        found = []
        for line in lines:
            _, controllers, path = line.split(":", 2)
            if not controllers:
                found.append(self._cgroups / path.lstrip("/") / "memory.events")
            elif "memory" in controllers.split(","):
                directory = self._cgroups / "memory" / path.lstrip("/")
                found.append(directory / "memory.oom_control")
        return found


def _read(path: Path) -> int | None:
    """`oom_kill` of a control group; None if it does not count."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    words = [line.split() for line in lines]
    return next((int(value) for name, value in words if name == "oom_kill"), None)
