# SPDX-License-Identifier: MIT
"""Makes the system-call filter of a worker from the lists (worker.jail.allowed).

`python -m worker.jail.filters` prints the lists as Markdown (docs/system-calls.md).

Everything except the process id is made once, in the fork server if it asks for the filters in
advance.

If the manifest of a type is not loaded yet, it is read from a file. So the filter is made while the
worker still sees files, and installed later (worker.jail.seccomp).
"""

from __future__ import annotations

import errno
import functools
import os
import platform
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import Final, Literal

from shared.device_types import own_types, resolve
from shared.errors import ConfigError
from shared.system_calls import INT, Argument, Call, Group
from shared.worker_spec import HypervisorKind
from worker.jail.allowed import (
    COMMON,
    GNTDEV_GRANT_COPY,
    GNTDEV_MAP_GRANT_REF,
    HYPERVISORS,
    OWN_PROCESS,
)
from worker.jail.rules import (
    AARCH64,
    ALLOW,
    KILL_PROCESS,
    LOG,
    X86_64,
    Clause,
    Machine,
    assemble,
    errno_verdict,
)
from worker.jail.syscalls import number

Mode = Literal["enforce", "log"]

_DEFAULTS: Final[dict[Mode, int]] = {"enforce": KILL_PROCESS, "log": LOG}


def filter_for(
    handler: str,
    hypervisor: HypervisorKind,
    mode: Mode,
    *,
    pid: int | None = None,
    machine: Machine | None = None,
) -> bytes:
    """The filter of a worker, for `worker.jail.seccomp.install`.

    `handler` is the name of a device type; "" gives only the calls of every worker. `pid` is the
    worker's process id, by default that of this process. In the mode `log`, the kernel logs and
    allows calls that are not on the list; calls that are answered with an errno still are.

    Raises:
        ConfigError: no such device type, it asks for calls that do not exist, or this machine has
            no list.
    """
    template, place = _template(
        handler, hypervisor, mode, this_machine() if machine is None else machine
    )
    own = struct.pack("<I", os.getpid() if pid is None else pid)
    return template[:place] + own + template[place + len(own) :]


@functools.cache
def _template(
    handler: str, hypervisor: HypervisorKind, mode: Mode, machine: Machine
) -> tuple[bytes, int]:
    """The filter for a placeholder process id, and the place of that id in it."""
    default = _DEFAULTS[mode]
    calls: dict[int, list[Clause]] = {}
    groups = groups_of(handler, hypervisor)
    for call in _by_precedence(call for group in groups for call in group.calls):
        at = number(machine, call.name)
        if at is not None:
            calls.setdefault(at, []).append(_clause(call))
    program = assemble(machine, calls, default=default, foreign=default)
    (place,) = (
        at
        for at, (constant,) in enumerate(struct.iter_unpack("<4xI", program))
        if constant == OWN_PROCESS
    )
    return program, 8 * place + 4


def seal_filter(machine: Machine | None = None) -> bytes:
    """A further filter: no grant of any domain can be mapped or copied any more (EPERM).

    Mapped pages stay mapped and can be unmapped.
    """
    machine = this_machine() if machine is None else machine
    ioctl = number(machine, "ioctl")
    assert ioctl is not None
    grants = Argument(1, (GNTDEV_MAP_GRANT_REF, GNTDEV_GRANT_COPY), INT)
    clauses = (Clause(errno_verdict(errno.EPERM), (grants,)), Clause(ALLOW))
    return assemble(machine, {ioctl: clauses}, default=ALLOW)


def groups_of(handler: str, hypervisor: HypervisorKind) -> tuple[Group, ...]:
    """The calls that a worker may make, with reasons; raises ConfigError like `filter_for`."""
    own = resolve(handler).system_calls if handler else ()
    return COMMON + HYPERVISORS[hypervisor] + own


def this_machine() -> Machine:
    """The machine of this process.

    Raises:
        ConfigError: there are no lists for this machine.
    """
    name = platform.machine()
    for machine in (X86_64, AARCH64):
        if machine.name == name and sys.maxsize > INT and sys.byteorder == "little":
            return machine
    raise ConfigError(
        f"system-call filter: {name}: only 64-bit x86_64 and aarch64 have one (jail.mode: off)"
    )


def _by_precedence(calls: Iterable[Call]) -> Iterator[Call]:
    """Order calls so that rows that allow come before rows with an errno."""
    return iter(sorted(calls, key=lambda call: bool(call.error)))


def _clause(call: Call) -> Clause:
    return Clause(errno_verdict(call.error) if call.error else ALLOW, call.when)


def markdown() -> str:
    """The lists for people (docs/system-calls.md holds them; a test keeps the two equal)."""
    parts = [("Every worker", COMMON)]
    parts += [(f"Hypervisor `{name}`", groups) for name, groups in HYPERVISORS.items()]
    parts += [(f"Device type `{t.name}`", t.system_calls) for t in own_types() if t.system_calls]
    return "\n".join(_section(title, groups) for title, groups in parts)


def _section(title: str, groups: Iterable[Group]) -> str:
    rows = [
        f"| {', '.join(_cell(call) for call in group.calls)} | {group.why} |" for group in groups
    ]
    return "\n".join([f"## {title}", "", "| calls | why |", "|---|---|", *rows, ""])


def _cell(call: Call) -> str:
    text = f"`{call.name}`"
    if call.note:
        text += f" ({call.note})"
    return f"{text}: {errno.errorcode[call.error]}" if call.error else text


if __name__ == "__main__":
    sys.stdout.write(markdown())
