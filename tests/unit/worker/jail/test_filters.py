# SPDX-License-Identifier: MIT
"""The filters of workers, made from the lists and run in the interpreter."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest

from shared import device_types
from shared.device_types import RESOLVED, Call, DeviceType, Group, own_types
from shared.errors import ConfigError
from shared.worker_spec import HypervisorKind
from tests.fakes.bpf_interpreter import Instruction, check, run
from tests.root import ROOT
from worker.jail import allowed, filters, syscalls
from worker.jail.rules import AARCH64, ALLOW, KILL_PROCESS, LOG, X86_64, Machine, errno_verdict

PID = 4711
HEADERS = {
    X86_64.name: Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    AARCH64.name: Path("/usr/include/asm-generic/unistd.h"),
}
BOTH = pytest.mark.parametrize("machine", [X86_64, AARCH64], ids=lambda machine: str(machine.name))

EPERM = errno_verdict(errno.EPERM)
EACCES = errno_verdict(errno.EACCES)
MAP, COPY, UNMAP = 0x184700, 0x104708, 0x104701
THREAD = 0x3D0F00
HIGH = 1 << 32

# What any worker on Xen may do: name, arguments, verdict.
VERDICTS = [
    ("read", (), ALLOW),
    ("futex", (), ALLOW),
    ("mmap", (0, 4096, 3, 0x22), ALLOW),
    ("mmap", (0, 4096, 7, 0x22), KILL_PROCESS),
    ("mmap", (0, 4096, 4, 0x22), KILL_PROCESS),
    ("mprotect", (0, 4096, 1), ALLOW),
    ("mprotect", (0, 4096, 5), KILL_PROCESS),
    ("clone", (THREAD,), ALLOW),
    ("clone", (THREAD | 0x400000,), ALLOW),
    ("clone", (THREAD | 0x20000,), KILL_PROCESS),
    ("clone", (THREAD | HIGH,), KILL_PROCESS),
    ("clone", (17,), KILL_PROCESS),
    ("clone3", (), errno_verdict(errno.ENOSYS)),
    ("prctl", (15,), ALLOW),
    ("prctl", (15 | HIGH,), ALLOW),
    ("prctl", (4, 1), KILL_PROCESS),
    ("prctl", (22,), KILL_PROCESS),
    ("tgkill", (PID, PID, 6), ALLOW),
    ("tgkill", (PID + 1, PID + 1, 6), KILL_PROCESS),
    ("socket", (1, 1), ALLOW),
    ("socket", (2, 1), KILL_PROCESS),
    ("socket", (16, 3), KILL_PROCESS),
    ("getsockopt", (3, 1, 17), ALLOW),
    ("getsockopt", (3, 1, 26), KILL_PROCESS),
    ("getsockopt", (3, 6, 17), KILL_PROCESS),
    ("fcntl", (3, 1030), ALLOW),
    ("fcntl", (3, 8), KILL_PROCESS),
    ("newfstatat", (3, 0, 0, 0x1000), ALLOW),
    ("newfstatat", (3, 0, 0, 0), EACCES),
    ("ioctl", (3, 0x5401), errno_verdict(errno.ENOTTY)),
    ("ioctl", (3, 0x802C542A), errno_verdict(errno.ENOTTY)),
    ("ioctl", (3, 0x5412), KILL_PROCESS),
    ("ioctl", (3, MAP), ALLOW),
    ("ioctl", (3, COPY), ALLOW),
    ("ioctl", (3, 0x044500), KILL_PROCESS),
    ("openat", (), KILL_PROCESS),
    ("recvmsg", (), KILL_PROCESS),
    ("memfd_create", (), KILL_PROCESS),
]


def verdict(
    program: list[Instruction], machine: Machine, name: str, arguments: tuple[int, ...]
) -> int:
    """What a filter says to a call."""
    number = syscalls.number(machine, name)
    assert number is not None
    return run(program, number, machine.audit, (*arguments, *(0,) * (6 - len(arguments))))


@BOTH
@pytest.mark.parametrize(("name", "arguments", "expected"), VERDICTS)
def test_filter_for_any_worker_on_xen_decides_each_call(
    machine: Machine, name: str, arguments: tuple[int, ...], expected: int
) -> None:
    """Numbers, arguments and both halves of arguments."""
    program = check(filters.filter_for("toy", "xen", "enforce", pid=PID, machine=machine))

    assert verdict(program, machine, name, arguments) == expected


@BOTH
def test_filter_for_embedded_has_its_calls_and_not_xens(machine: Machine) -> None:
    """Messages with descriptors instead of ioctls."""
    program = check(filters.filter_for("toy", "embedded", "enforce", pid=PID, machine=machine))

    assert verdict(program, machine, "recvmsg", ()) == ALLOW
    assert verdict(program, machine, "ioctl", (3, MAP)) == KILL_PROCESS


@pytest.mark.parametrize("hypervisor", ["xen", "embedded"])
@BOTH
def test_filter_for_mode_log_forbids_nothing(machine: Machine, hypervisor: HypervisorKind) -> None:
    """What would kill is logged instead, by other entries too; an errno stays one."""
    program = check(filters.filter_for("toy", hypervisor, "log", pid=PID, machine=machine))

    assert verdict(program, machine, "openat", ()) == LOG
    assert verdict(program, machine, "clone3", ()) == errno_verdict(errno.ENOSYS)
    assert run(program, 5, 0x40000003, (0,) * 6) == LOG


def third_party(monkeypatch: pytest.MonkeyPatch, *system_calls: str) -> str:
    """Have a handler that asks for these; its name, which is new: filters are kept by name."""
    name = f"net {system_calls}"
    calls = (Group("what it is for", tuple(Call(name) for name in system_calls)),)
    about = DeviceType(name=name, backend="elsewhere:Net", system_calls=calls)
    monkeypatch.setitem(device_types.RESOLVED, name, about)
    return name


@BOTH
def test_filter_for_handler_that_asks_gets_what_it_asks_for(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On top of what every worker has, and nothing of another type's."""
    name = third_party(monkeypatch, "recvmmsg", "time")
    program = check(filters.filter_for(name, "xen", "enforce", pid=PID, machine=machine))

    assert verdict(program, machine, "recvmmsg", ()) == ALLOW
    assert verdict(program, machine, "read", ()) == ALLOW
    assert verdict(program, machine, "preadv2", ()) == KILL_PROCESS


@pytest.mark.parametrize("name", ["execve", "nonsense", ""])
def test_filter_for_handler_that_asks_for_the_unknown_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator is told which."""
    handler = third_party(monkeypatch, name)

    with pytest.raises(ConfigError, match=re.escape(repr(name))):
        filters.filter_for(handler, "xen", "enforce", pid=PID)


def test_filter_for_handler_that_is_not_installed_is_refused() -> None:
    """As everywhere else."""
    with pytest.raises(ConfigError, match="not installed"):
        filters.filter_for("no-such", "xen", "enforce", pid=PID)


@BOTH
def test_seal_filter_denies_new_grants_only(machine: Machine) -> None:
    """Mapping and copying fail, unmapping and all else go on."""
    program = check(filters.seal_filter(machine))
    verdicts = [verdict(program, machine, "ioctl", (3, number)) for number in (MAP, COPY, UNMAP)]

    assert verdicts == [EPERM, EPERM, ALLOW]
    assert verdict(program, machine, "ioctl", (3, MAP | HIGH)) == EPERM
    assert verdict(program, machine, "read", ()) == ALLOW
    assert run(program, 3, 0x40000003, (0,) * 6) == KILL_PROCESS


@pytest.mark.parametrize("hypervisor", ["xen", "embedded"])
@pytest.mark.parametrize("handler", [one.name for one in own_types()])
def test_filter_for_any_worker_lets_data_path_calls_pass_unseen(
    handler: str, hypervisor: HypervisorKind
) -> None:
    """No argument is looked at where every microsecond counts: Linux then skips the filter."""
    groups = filters.groups_of(handler, hypervisor)
    looked_at = {call.name for group in groups for call in group.calls if call.when}

    assert looked_at.isdisjoint(
        ("read", "write", "preadv2", "pwritev2", "poll", "ppoll", "futex", "fdatasync")
    )


@BOTH
def test_syscalls_numbers_are_those_of_the_installed_headers(machine: Machine) -> None:
    """Each number we have, where this machine has Linux's headers."""
    header = HEADERS[machine.name]
    if not header.exists():
        pytest.skip(f"{header} is not installed")
    defined = dict(
        re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)$", header.read_text(), re.MULTILINE)
    )
    # asm-generic gives what has two widths a name of its own.
    aliases = {"newfstatat": "fstatat"} if machine is AARCH64 else {}
    ours = {name: syscalls.number(machine, name) for name in syscalls.names()}
    wrong = {
        name: number
        for name, number in ours.items()
        if number is not None
        and aliases.get(name, name) in defined
        and int(defined[aliases.get(name, name)]) != number
    }
    absent = {name for name, number in ours.items() if number is None} & defined.keys()

    assert (wrong, absent) == ({}, set())


def test_syscalls_table_has_every_name_of_the_lists() -> None:
    """No list names a call that neither machine has."""
    groups = [
        *allowed.COMMON,
        *(group for groups in allowed.HYPERVISORS.values() for group in groups),
        *(group for one in own_types() for group in one.system_calls),
    ]

    assert {call.name for group in groups for call in group.calls} <= syscalls.names()


def test_filter_for_type_without_calls_of_its_own_allows_what_every_worker_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A ring can be served by nothing else; a call that only disks need kills such a worker."""
    monkeypatch.setitem(RESOLVED, "plain", DeviceType(name="plain", backend="plain:Plain"))

    assert filters.groups_of("plain", "xen") == (*allowed.COMMON, *allowed.HYPERVISORS["xen"])
    program = check(filters.filter_for("plain", "xen", "enforce", pid=PID, machine=X86_64))
    assert verdict(program, X86_64, "read", ()) == ALLOW
    assert verdict(program, X86_64, "preadv2", ()) == KILL_PROCESS


def test_filter_for_each_type_of_this_distribution_allows_its_own_calls() -> None:
    """What a manifest lists is in the filter of its workers, besides what every worker may."""
    for one in own_types():
        groups = filters.groups_of(one.name, "xen")
        assert set(one.system_calls) <= set(groups)
        assert set(allowed.COMMON) <= set(groups)


def test_system_calls_in_the_documentation_are_those_in_force() -> None:
    """docs/system-calls.md contains the generated lists."""
    document = ROOT / "docs" / "system-calls.md"

    assert filters.markdown() in document.read_text()
