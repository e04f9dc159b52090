# SPDX-License-Identifier: MIT
"""Whether the kernel killed a worker for want of memory.

SIGKILL does not say who sent it. The kernel counts its own kills per cgroup, those for the whole
host's shortage included: `oom_kill` in `memory.events` of cgroup v2 and in `memory.oom_control` of
v1 (its Documentation/admin-guide, cgroup-v2.rst and cgroup-v1/memory.rst), raised before the signal
is sent. So the counter is read when a worker is forked, and when one was killed by SIGKILL.

A worker with a control group of its own (`supervisor.workers.confinement.cgroups`) enters it by itself, after the fork,
so for that one the path is given.

Several workers may share a cgroup. Then a rise says how many were killed, not which: each rise is
taken for one worker that died of SIGKILL. Where there is no memory cgroup nothing is known, and a
SIGKILL is one of a stranger.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
CGROUPS: Final = Path("/sys/fs/cgroup")


class OomKills:
    """The counters of the cgroups that workers run in."""

    def __init__(self, proc: Path = PROC, cgroups: Path = CGROUPS) -> None:
        self._proc = proc
        self._cgroups = cgroups
        self._workers: dict[int, tuple[Path, int]] = {}
        self._claimed: dict[Path, int] = {}
        """Value of a counter up to which its rises have been taken for a worker."""

    def watch(self, pid: int, leaf: Path | None = None) -> None:
        """A worker was forked: note what its cgroup says now; `leaf` is the one of its own."""
        own = [] if leaf is None else [leaf / "memory.events"]
        for path in [*own, *self._counters(pid)]:
            count = _read(path)
            if count is not None:
                self._workers[pid] = (path, count)
                return

    def claim(self, pid: int) -> bool:
        """A worker died of SIGKILL: whether it was the kernel, for want of memory."""
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
        """Where the counter may be: lines of /proc/PID/cgroup are `id:controllers:path`."""
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
    """`oom_kill` of a cgroup; None if it does not count."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    words = [line.split() for line in lines]
    return next((int(value) for name, value in words if name == "oom_kill"), None)
