# SPDX-License-Identifier: MIT
"""The plan of a worker's jail as data: what is done where, in which order, and what is not."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from shared.errors import ConfigError, HostError
from shared.worker_spec import JailSpec
from worker.jail import landlock
from worker.jail.facts import Facts
from worker.jail.identity import OwnUser
from worker.jail.jail import carry_out
from worker.jail.plan import Plan, Subject, make_plan
from worker.jail.step import LeaveOut, LeftOutError, Step

ALL = (1 << 41) - 1
ROOT = Facts(root=True, capabilities=ALL, landlock=6)
NOBODY = Facts(root=False, capabilities=0, landlock=6)
UID = 1_879_048_200


def plan(
    facts: Facts,
    *,
    uid: int = UID,
    cgroup: str = "/sys/fs/cgroup/x",
    hypervisor: Literal["xen", "embedded"] = "xen",
    max_grants: int | None = 1072,
) -> Plan:
    """The plan of a toy's worker."""

    def unused() -> Any:
        raise AssertionError("a plan does nothing")

    spec = JailSpec(
        mode="enforce", uid=uid, keep="/run/x/bus", open_files=256, pids=64, cgroup=cgroup
    )
    subject = Subject(
        handler="toy",
        hypervisor=hypervisor,
        domid=7,
        max_grants=max_grants,
        descriptors=(9, 5),
        handles=unused,
        threads=unused,
        program=unused,
    )
    return make_plan(spec, facts, subject)


def left_out(steps: Plan) -> dict[str, str]:
    """Name and reason of what is known beforehand not to be done."""
    return {step.name: step.reason for step in steps if isinstance(step, LeaveOut)}


def test_jail_plan_of_root_leaves_nothing_out_and_keeps_the_order() -> None:
    """Root on a current kernel gets every step, in the order that what they need dictates."""
    steps = plan(ROOT)

    assert left_out(steps) == {}
    assert [step.name for step in steps.birth] == [
        "cgroup",
        "session",
        "network",
        "descriptors",
        "environment",
        "umask",
        "limits",
        "oom-score",
        "no_new_privs",
        "mounts",
        "ipc",
        "uts",
        "capabilities",
        "landlock-network",
    ]
    assert [step.name for step in steps.handles] == ["event-channels", "grants"]
    assert [step.name for step in steps.entry] == [
        "root",
        "user",
        "dumpable",
        "landlock-files",
        "system-calls",
    ]


def test_jail_plan_of_root_says_what_will_be_true() -> None:
    """Each step's text names the object it is about."""
    texts = [step.describe() for step in plan(ROOT)]

    assert "control group /sys/fs/cgroup/x" in texts
    assert "descriptors closed but 0, 1, 2, 5, 9; 0 is /dev/null, 1 is 2" in texts
    assert (
        "limits: descriptors 256, threads 64, data 768 MiB, mapped 1792 MiB;"
        " no core, queues, locked memory"
    ) in texts
    assert "event channels of domain 7 only" in texts
    assert "at most 1072 pages mapped" in texts
    assert "root directory empty except /run/x/bus, read-only" in texts
    assert f"user and group {UID}, no other groups, no capabilities" in texts
    assert "system calls of toy on xen only; any other kills" in texts


def test_jail_plan_of_nobody_does_what_can_be_done_and_lists_the_rest() -> None:
    """Without root the same steps stand in the plan, those that need it with that reason."""
    steps = plan(NOBODY, uid=0, cgroup="", hypervisor="embedded")

    assert left_out(steps) == {
        "cgroup": "none is delegated",
        "mounts": "needs root",
        "network": "needs root",
        "ipc": "needs root",
        "uts": "needs root",
        "capabilities": "needs root",
        "root": "needs root",
        "user": "needs root",
        "dumpable": "would hide it from the supervisor",
    }
    assert [step.name for step in steps] == [step.name for step in plan(ROOT)]
    limits = next(step for step in steps if step.name == "limits")
    assert limits.describe().startswith("limits: descriptors 256, data 768 MiB,")


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (0, {"landlock-network": "has no Landlock", "landlock-files": "has no Landlock"}),
        (3, {"landlock-network": "version 3"}),
        (4, {}),
        (99, {}),
    ],
)
def test_jail_plan_landlock_follows_the_kernels_version(
    version: int, expected: dict[str, str]
) -> None:
    """What a kernel's Landlock does not know is left out; a later one's is used as far as known."""
    facts = Facts(root=True, capabilities=ALL, landlock=version)
    missing = left_out(plan(facts))

    assert missing.keys() == expected.keys()
    assert all(part in missing[name] for name, part in expected.items())


def test_jail_plan_landlock_handles_all_accesses_its_version_knows() -> None:
    """Bits of linux/landlock.h: 13 at first, with refer 14, truncate 15, ioctl of devices 16."""
    assert [landlock.file_accesses(version).bit_count() for version in (1, 2, 3, 4, 5, 9)] == [
        13,
        14,
        15,
        15,
        16,
        16,
    ]


def test_jail_plan_of_root_without_capabilities_names_the_one_that_is_missing() -> None:
    """Root of a container: namespaces cannot be had, the user id must."""
    facts = Facts(root=True, capabilities=0, landlock=6)
    missing = left_out(plan(facts))

    assert missing["mounts"] == missing["root"] == "needs CAP_SYS_ADMIN"
    assert missing["capabilities"] == "needs CAP_SETPCAP"
    assert "user" not in missing


def test_jail_plan_is_equal_for_equal_facts() -> None:
    """Plans are data: two of the same worker compare equal, of another they do not."""
    assert plan(ROOT).birth == plan(ROOT).birth
    assert plan(ROOT).birth != plan(NOBODY).birth


def test_jail_plan_device_type_without_a_bound_on_grants_says_so() -> None:
    """A type that does not know how many pages it maps leaves that step out."""
    assert left_out(plan(ROOT, max_grants=None)) == {"grants": "the device type does not say it"}


def test_jail_step_user_0_is_refused() -> None:
    """Whatever the supervisor says, a worker of root does not stay root."""
    step = OwnUser(0, lambda: [])

    with pytest.raises(HostError, match=r"jail: user .*: user id: 0: not for a worker"):
        carry_out(step)


class _Fails:
    name = "odd"

    def __init__(self, error: Exception) -> None:
        self._error = error

    def describe(self) -> str:
        return "an odd thing"

    def execute(self) -> None:
        raise self._error


@pytest.mark.parametrize("error", [OSError(1, "mount: not permitted"), ConfigError("x: y")])
def test_jail_step_that_fails_is_a_host_error_with_its_name(error: Exception) -> None:
    """What should have worked ends the worker, and the message names the step."""
    step: Step = _Fails(error)

    with pytest.raises(HostError, match=r"^jail: odd \(an odd thing\): "):
        carry_out(step)


def test_jail_step_left_out_gives_its_reason() -> None:
    """A kernel that cannot is no error."""
    assert carry_out(_Fails(LeftOutError("too old"))) == "too old"
    assert carry_out(LeaveOut("x", "a thing", "needs root")) == "needs root"
