# SPDX-License-Identifier: MIT
"""What `doctor` says about the jail: what this kernel supports, and what conflicts with it.

Pure, as `doctor_checks`; the trial itself (`python -m worker.jail`) is the probe's. It is made by
the user who runs it: for others than root it shows what workers without root would have.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from config.model import Config, JailConfig
from config.rules import remarks
from supervisor.cli.doctor_probe import Probe
from supervisor.cli.doctor_types import BOTH, Finding, Level
from supervisor.workers.confinement.cgroups import CONTROLLERS, UNIT

SECTION: Final = "Jail"

_ACCOUNTS: Final = (("/etc/passwd", 2), ("/etc/group", 2))
"""Files with a number of its own in each line, and which field that is."""

_RANGES: Final = ("/etc/subuid", "/etc/subgid")
"""Files of `name:first:count` (subuid(5)): what containers of that user may become."""


def all_checks(probe: Probe, config: Config) -> Iterator[Finding]:
    """Every finding about the jail, in the order of the report."""
    for key, text in remarks(config):
        remedy = "Remove the line; doctor and show say what holds then."
        yield Finding(SECTION, Level.WARNING, key, text, remedy)
    yield from steps(probe, config.jail)
    if probe.uid() == 0:
        yield from user_ids(probe, config)
    yield from control_groups(probe)


def steps(probe: Probe, jail: JailConfig) -> Iterator[Finding]:
    """What became of each step in a process that was made to try."""
    tried = probe.jail(jail.uid_base)
    if isinstance(tried, str):
        remedy = "Install xenbackd again into its environment (make setup, or pipx install)."
        yield Finding(SECTION, Level.MISSING, "trial", tried, remedy, BOTH)
        return
    for step in tried:
        if step.step == "cgroup":
            continue  # the trial has none; `control_groups` says it
        if step.outcome == "done":
            yield Finding(SECTION, Level.OK, step.step, step.text)
            continue
        text = f"{step.text}: {step.reason}"
        if step.outcome == "left out":
            root = "root" in step.reason
            remedy = "Run as root." if root else "A newer kernel, or one configured for it."
            yield Finding(SECTION, Level.WARNING, step.step, text, remedy)
        else:
            remedy = "No worker can start: please report it with this line."
            yield Finding(SECTION, Level.MISSING, step.step, text, remedy, BOTH)


def user_ids(probe: Probe, config: Config) -> Iterator[Finding]:
    """Whose numbers are among those the workers get."""
    kinds = {config.jail, *(one.jail for one in config.types.values() if one.jail is not None)}
    for first, last in sorted({(one.uid_base, one.uid_base + one.uids - 1) for one in kinds}):
        found = [*_owners(probe, first, last)]
        if not found:
            text = f"{first}..{last}: nobody else's"
            yield Finding(SECTION, Level.OK, "user ids", text)
            continue
        text = f"{first}..{last}: also {', '.join(found[:4])}"
        remedy = "Another jail.uid_base: who has a worker's number can stop it."
        yield Finding(SECTION, Level.WARNING, "user ids", text, remedy)


def _owners(probe: Probe, first: int, last: int) -> Iterator[str]:
    for path, field in _ACCOUNTS:
        for words in _lines(probe, path):
            if len(words) > field and words[field].isdigit() and first <= int(words[field]) <= last:
                yield f"{words[0]} in {path}"
    for path in _RANGES:
        for words in _lines(probe, path):
            if len(words) == 3 and words[1].isdigit() and words[2].isdigit():
                start, count = int(words[1]), int(words[2])
                if start <= last and start + count > first:
                    yield f"containers of {words[0]} in {path}"


def _lines(probe: Probe, path: str) -> Iterator[list[str]]:
    for line in (probe.read(path) or "").splitlines():
        if not line.startswith("#"):
            yield line.split(":")


def control_groups(probe: Probe) -> Iterator[Finding]:
    """Whether workers can have control groups of their own, and with what."""
    subject = "control groups"
    mount = _mount(probe)
    if mount is None:
        remedy = "Boot with systemd.unified_cgroup_hierarchy=1."
        yield Finding(SECTION, Level.WARNING, subject, "version 2 is not mounted", remedy)
        return
    there = (probe.read(f"{mount}/cgroup.controllers") or "").split()
    absent = [name for name in CONTROLLERS if name not in there]
    if absent:
        text = f"version 2 is without {', '.join(absent)}: version 1 has them"
        remedy = "Boot with systemd.unified_cgroup_hierarchy=1."
        yield Finding(SECTION, Level.WARNING, subject, text, remedy)
    elif not probe.exists("/run/systemd/system"):
        text = "version 2; serve must be started in a group of its own"
        yield Finding(SECTION, Level.OK, subject, text)
    elif probe.exists(f"{mount}/system.slice/{UNIT}"):
        yield Finding(SECTION, Level.OK, subject, f"version 2, {UNIT}")
    else:
        text = f"version 2, and none for workers: {UNIT} does not run"
        remedy = f"Install config/{UNIT} and start it (docs/xen.md): bounds for memory and more."
        yield Finding(SECTION, Level.WARNING, subject, text, remedy)


def _mount(probe: Probe) -> str | None:
    """Where version 2 is mounted (proc_pid_mountinfo(5))."""
    for line in (probe.read("/proc/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            return before.split()[4]
    return None
