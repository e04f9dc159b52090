# SPDX-License-Identifier: MIT
"""Everything a whole xenbackd holds that could leak, counted so that two counts can be compared.

Processes are told by what they are for and not by their numbers, domains by what they hold and not
by their ids, files by their names without digits and chance: each may be another one by the second
count. What only says how busy the last second was (mapped data pages) must be at rest in both.

The caller is the subreaper of all it started (`adopt_orphans`), or processes whose parent was
killed could not be found.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from bench.lab import Lab
from embedded.hypercalls import DomainStats, Hypercalls

_PR_SET_CHILD_SUBREAPER: Final = 36


class Held(NamedTuple):
    """One count."""

    processes: Mapping[str, int]
    """By role."""
    descriptors: Mapping[str, int]
    """By role, the most that one of them has open."""
    domains: Mapping[DomainStats, int]
    """How many domains hold just this."""
    hypervisor_handles: int
    mapped_of_the_dead: int
    watches: int
    files: Mapping[str, int]
    """In the lab's directory, by name without digits."""
    backend_nodes: int
    """Nodes below the backend directory in xenstore."""

    def beyond(self, before: Held) -> list[str]:
        """What is there now and was not before, one line each."""
        found = []
        for name in self._fields:
            now, was = getattr(self, name), getattr(before, name)
            if isinstance(now, int):
                now, was = {name: now}, {name: was}
            found += [
                f"{name}: {key}: {count}, before {was.get(key, 0)}"
                for key, count in now.items()
                if count > was.get(key, 0)
            ]
        return found


def adopt_orphans() -> None:
    """Become the parent of all below us that lose theirs; raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def reap_orphans(known: set[int]) -> None:
    """Collect the dead among our children whom nobody else waits for."""
    for pid in children(os.getpid()) - known:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def below(roots: set[int]) -> set[int]:
    """Processes that descend from others, themselves included."""
    found, new = set(roots), set(roots)
    while new:
        new = {child for pid in new for child in children(pid)} - found
        found |= new
    return found


def children(pid: int) -> set[int]:
    """Direct children of a process, without a look at every other one of the machine.

    Empty if it is gone. Needs CONFIG_PROC_CHILDREN, which every distribution has.
    """
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            # A thread that ended meanwhile has given its children to another one.
            with contextlib.suppress(OSError):
                found |= {int(one) for one in (task / "children").read_text().split()}
    return found


def open_files(pid: int) -> int | None:
    """How many descriptors a process has open; None if it is gone."""
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return None


def resident(pid: int) -> int:
    """KiB of memory a process has resident."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def cpu_ticks(pid: int) -> int:
    """Clock ticks a process and the children it waited for have used; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(map(int, fields[11:15]))


def command_line(pid: int) -> str:
    """Arguments of a process, or the title it gave itself; "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def count(lab: Lab) -> Held:
    """Count everything; the supervisor must serve."""
    processes: Counter[str] = Counter()
    descriptors: dict[str, int] = {}
    for pid in below({os.getpid()}) - {os.getpid()}:
        role, files = _role(command_line(pid)), open_files(pid)
        if files is not None:
            processes[role] += 1
            descriptors[role] = max(files, descriptors.get(role, 0))
    with Hypercalls(lab.embedded_dir) as hypercalls:
        stats = hypercalls.stats()
    return Held(
        processes=processes,
        descriptors=descriptors,
        domains=Counter(stats.domains.values()),
        hypervisor_handles=stats.handles,
        mapped_of_the_dead=stats.mapped_of_the_dead,
        watches=lab.status().resources["watches"],
        files=Counter(_files(lab.directory)),
        backend_nodes=_backend_nodes(lab),
    )


def _role(command: str) -> str:
    """What a process is for, out of its command line."""
    for part, role in _ROLES.items():
        if part in command:
            return role
    return command or "a zombie"


_ROLES: Final = {
    "xenbackd: fork server": "fork server",
    "xenbackd: ": "worker",
    "supervisor.cli.main": "supervisor",
    "embedded.host": "hypervisor",
    "embedded.xenstored": "xenstored",
    "embedded.guest": "guest",
    "resource_tracker": "resource tracker",
}


def _files(directory: Path) -> Iterator[str]:
    for path in directory.rglob("*"):
        name = str(path.relative_to(directory))
        # Named by chance: listener-… up to Python 3.12, sock-… after.
        yield re.sub("[0-9]+", "N", re.sub("^fork/.+", "fork/socket", name))


def _backend_nodes(lab: Lab) -> int:
    with lab.xenstore() as xenstore:
        pending, found = ["/local/domain/0/backend"], 0
        while pending:
            path = pending.pop()
            names = xenstore.directory(path)
            found += len(names)
            pending += [f"{path}/{name}" for name in names]
    return found
