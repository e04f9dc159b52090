# SPDX-License-Identifier: MIT
"""The plan of a worker's jail: the steps in their order, and the steps left out and why.

    birth    one thread, nothing open yet        control group, descriptors, limits, namespaces,
                                                 capabilities: what belongs to a thread
    handles  opened, not used yet                event channels of one domain, number of grants
    entry    end of the first `init`: all is     empty root, own user id, not dumpable, files,
             open, and nothing that a guest      system calls
             wrote has been looked at

Why two halves: attributes of a thread must be given up before libzmq's threads exist, which is when
the bus opens. But root must open the image, the journal and the hypervisor, so the root directory
and the user id are given up after that. The order within each half follows from what a step needs:

- the control group first, so that it counts everything after it;
- the network before the descriptors, because it is entered by one that is then closed;
- no_new_privs before Landlock, which needs it; both capability steps after unshare;
- the root before the user id, because mounting needs CAP_SYS_ADMIN; Landlock on files after the
  root, because it forbids pivoting; the filter last, because it forbids all of the above.

Invariants: a plan has every step; a step that cannot be done is there with the reason. Making a
plan has no side effects, and equal facts give equal plans. No configuration makes a step optional.

There is no PID namespace: entering one takes another fork, and the parent of that process would be
neither the fork server nor the supervisor. The user id and the filter keep signals inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from shared.hypervisor.interface import Handles
from shared.worker_spec import HypervisorKind, JailSpec
from worker.jail import birth, landlock
from worker.jail.callfilter import FilterCalls
from worker.jail.facts import Facts
from worker.jail.handles import LimitGrants, RestrictEventChannels
from worker.jail.identity import NotDumpable, OwnUser
from worker.jail.kernel import Capability
from worker.jail.network import EmptyNetwork
from worker.jail.root import EmptyRoot
from worker.jail.step import NEEDS_ROOT, LeaveOut, Step

# Steps that are the same for all workers are made once, by the fork server (worker.preload).
_OWN_SESSION: Final = birth.OwnSession()
_EMPTY_NETWORK: Final = EmptyNetwork()
_EMPTY_ENVIRONMENT: Final = birth.EmptyEnvironment()
_OWNER_ONLY: Final = birth.OwnerOnly()
_NOT_SPARED: Final = birth.NotSpared()
_NO_NEW_PRIVILEGES: Final = birth.NoNewPrivileges()
_DROP_CAPABILITIES: Final = birth.DropCapabilities()
_NOT_DUMPABLE: Final = NotDumpable()


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps in the order in which they are done."""

    birth: tuple[Step, ...]
    handles: tuple[Step, ...]
    entry: tuple[Step, ...]

    def __iter__(self) -> Iterator[Step]:
        yield from (*self.birth, *self.handles, *self.entry)


@dataclass(frozen=True, slots=True)
class Subject:
    """Who is to be jailed."""

    handler: str
    hypervisor: HypervisorKind
    domid: int
    max_grants: int | None
    """Pages that the device may map at once; None: its type does not say."""
    descriptors: tuple[int, ...]
    """Descriptors that were passed to the process and must stay open, besides the standard ones."""
    handles: Callable[[], Handles]
    threads: Callable[[], Sequence[int]]
    program: Callable[[], bytes]
    """The system-call filter."""


def make_plan(spec: JailSpec, facts: Facts, subject: Subject) -> Plan:
    """The plan for a worker on this host."""
    return Plan(
        birth=tuple(_birth(spec, facts, subject)),
        handles=tuple(_handles(subject)),
        entry=tuple(_entry(spec, facts, subject)),
    )


def _birth(spec: JailSpec, facts: Facts, subject: Subject) -> Iterator[Step]:
    group = birth.JoinControlGroup(spec.cgroup)
    yield group if spec.cgroup else LeaveOut(group.name, "control group", "none is delegated")
    yield _OWN_SESSION
    yield _unless(_why_not_admin(facts), _EMPTY_NETWORK)
    yield birth.CloseDescriptors(subject.descriptors)
    yield _EMPTY_ENVIRONMENT
    yield _OWNER_ONLY
    threads = spec.pids if _own_user(spec, facts) else None
    mapped = birth.MAPPED[subject.hypervisor]
    yield birth.Limits(spec.open_files, threads, spec.memory, spec.pids, mapped)
    yield _NOT_SPARED
    yield _NO_NEW_PRIVILEGES
    for step in birth.NAMESPACES:
        yield _unless(_why_not_admin(facts), step)
    reason = "" if facts.can(Capability.SETPCAP) else _needs(facts, "CAP_SETPCAP")
    yield _unless(reason, _DROP_CAPABILITIES)
    network = landlock.ForbidNetwork(facts.landlock)
    yield _unless(_why_no_landlock(facts, landlock.NETWORK_ABI), network)


def _handles(subject: Subject) -> Iterator[Step]:
    yield RestrictEventChannels(subject.domid, subject.handles)
    if subject.max_grants is None:
        yield LeaveOut("grants", "number of mapped pages", "the device type does not say it")
    else:
        yield LimitGrants(subject.max_grants, subject.handles)


def _entry(spec: JailSpec, facts: Facts, subject: Subject) -> Iterator[Step]:
    yield _unless(_why_not_admin(facts), EmptyRoot(spec.keep))
    user = OwnUser(spec.uid, subject.threads)
    if _own_user(spec, facts):
        yield user
        yield _NOT_DUMPABLE
    else:
        yield LeaveOut(user.name, "user id of its own", NEEDS_ROOT)
        # The supervisor looks for a lost worker in /proc, which would then be forbidden.
        yield LeaveOut("dumpable", "not dumpable", "would hide it from the supervisor")
    yield _unless(_why_no_landlock(facts, 1), landlock.ForbidFiles(facts.landlock))
    yield FilterCalls(subject.handler, subject.hypervisor, spec.mode, subject.program)


def _own_user(spec: JailSpec, facts: Facts) -> bool:
    """Whether to change the user; as root without a user id the step itself fails."""
    return facts.root or spec.uid != 0


def _unless(reason: str, step: Step) -> Step:
    return LeaveOut(step.name, step.describe(), reason) if reason else step


def _needs(facts: Facts, capability: str) -> str:
    return f"needs {capability}" if facts.root else NEEDS_ROOT


def _why_not_admin(facts: Facts) -> str:
    return "" if facts.can(Capability.SYS_ADMIN) else _needs(facts, "CAP_SYS_ADMIN")


def _why_no_landlock(facts: Facts, abi: int) -> str:
    if facts.landlock >= abi:
        return ""
    if not facts.landlock:
        return "this kernel has no Landlock, or has it switched off"
    return f"this kernel's Landlock (version {facts.landlock}) cannot"
