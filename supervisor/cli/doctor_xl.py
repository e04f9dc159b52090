# SPDX-License-Identifier: MIT
"""What `doctor` says of a host with xl: who serves which directory, and who else would.

Pure, as `doctor_checks`. Two servers of one directory destroy a disk's data; what is on a
guest's way to that stands here: the kernel's backends, a QEMU of the guest, `xl devd`, which
starts QEMUs in a driver domain.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from config.model import Config
from supervisor.cli.doctor_probe import Probe, Process
from supervisor.cli.doctor_types import XEN, Finding, Level
from supervisor.cli.text import plural

SECTION: Final = "Real Xen"

KERNEL: Final = {
    "vbd": "xen_blkback",
    "vif": "xen_netback",
    "vscsi": "xen_scsiback",
    "pvcalls": "pvcalls_back",
}
"""Directory to the module of Linux that serves it."""

QEMU: Final = frozenset({"qdisk", "qnic", "vfb", "vkbd", "9pfs", "qusb"})
"""Directories that a QEMU serves to its guest (Xen's docs/misc/qemu-backends.txt)."""

SHOWN_MAX: Final = 8
"""Guests or processes named in one line."""

_DOMID: Final = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class DeviceModel:
    """A process that libxl takes for the QEMU of a guest."""

    pid: int
    domid: int
    ours: bool
    """xenbackd-device-model, which serves nothing."""
    hvm: bool


def all_checks(probe: Probe, config: Config) -> Iterator[Finding]:
    """Every finding about xl, in the order of the report."""
    enabled = {name for name, one in config.types.items() if one.enabled}
    wanted = config.xenstore
    backends = probe.backends(wanted.transport, wanted.socket, wanted.device)
    models = [found for one in probe.processes() if (found := device_model(one)) is not None]
    yield from kernel(probe, enabled)
    yield from qemu(models, enabled, backends)
    yield from ours(models, enabled)
    yield from devd(probe, enabled)
    yield from directories(probe, enabled, backends, models)


def kernel(probe: Probe, enabled: set[str]) -> Iterator[Finding]:
    """The kernel's backends; blkback always gets its line, for its disks are ours to take."""
    for kind, module in KERNEL.items():
        name = module.replace("_", "-")
        if not probe.exists(f"/sys/module/{module}"):
            if kind == "vbd":
                yield Finding(SECTION, Level.OK, name, "not loaded")
            continue
        text = f"the kernel serves {kind} itself"
        if kind not in enabled:
            yield Finding(SECTION, Level.OK, name, f"{text}; {kind} is not enabled here")
            continue
        other = " (use vbd3)" if kind == "vbd" else ""
        remedy = f"rmmod {name} and blacklist it, or disable the type {kind}{other}."
        yield Finding(SECTION, Level.MISSING, name, text, remedy, (XEN,))


def qemu(
    models: list[DeviceModel], enabled: set[str], backends: Mapping[str, frozenset[int]] | None
) -> Iterator[Finding]:
    """QEMUs of guests: with a directory that is ours as well it is a conflict."""
    kinds = sorted(enabled & QEMU)
    real = [one for one in models if not one.ours]
    shared = [one for one in real if _has_directory(one.domid, kinds, backends)]
    # Debian starts one for dom0's own disks, which pygrub needs: it disturbs nobody else's.
    real = [one for one in real if one.domid != 0 or one in shared]
    if not real:
        yield Finding(SECTION, Level.OK, "QEMU", "none serves PV devices")
        return
    text = f"serves PV devices: process {_listed(one.pid for one in real)}"
    if not kinds:
        yield Finding(SECTION, Level.OK, "QEMU", text)
        return
    if shared:
        names = ", ".join(kinds)
        both = f"domain {_listed(one.domid for one in shared)}: QEMU and we serve {names}"
        if any(one.hvm for one in shared):
            remedy = f"HVM guests keep their QEMU: disks of another type, or disable {names}."
        else:
            remedy = "device_model_override in these guests' configurations (docs/xl.md)."
        yield Finding(SECTION, Level.MISSING, "QEMU", both, remedy, (XEN,))
        return
    remedy = f"Disable {', '.join(kinds)}, or give no such device to a guest with a QEMU."
    yield Finding(SECTION, Level.WARNING, "QEMU", text, remedy)


def ours(models: list[DeviceModel], enabled: set[str]) -> Iterator[Finding]:
    """Guests that have our device model: all their PV devices are left to us."""
    guests = [one.domid for one in models if one.ours]
    if not guests:
        return
    text = f"stands in for QEMU with {plural(len(guests), 'guest')}: domain {_listed(guests)}"
    level, remedy = Level.OK, ""
    if not enabled & QEMU:
        level, remedy = Level.WARNING, "Enable the type qdisk: nobody serves these guests' disks."
    yield Finding(SECTION, level, "xenbackd-device-model", text, remedy)


def devd(probe: Probe, enabled: set[str]) -> Iterator[Finding]:
    """The daemon of driver domains: starts a QEMU for each guest with a qdisk or 9pfs."""
    found = [one.pid for one in probe.processes() if _is_devd(one.command)]
    if not found:
        return
    kinds = sorted(enabled & {"qdisk", "9pfs"})
    text = f"runs (process {_listed(found)})"
    if not kinds:
        yield Finding(SECTION, Level.OK, "xl devd", text)
        return
    remedy = "Stop it (systemctl disable --now xendriverdomain), or install our device model as its"
    remedy += " QEMU (docs/xl.md)."
    text += f" and starts a QEMU for {', '.join(kinds)}"
    yield Finding(SECTION, Level.WARNING, "xl devd", text, remedy)


def directories(
    probe: Probe,
    enabled: set[str],
    backends: Mapping[str, frozenset[int]] | None,
    models: list[DeviceModel],
) -> Iterator[Finding]:
    """Who serves which directory there is; a line for each kind."""
    if backends is None:
        return
    behind = {one.domid for one in models if not one.ours}
    for kind, guests in sorted(backends.items()):
        if not guests:
            continue
        whom = f"{plural(len(guests), 'guest')} (domain {_listed(guests)})"
        subject = f"backend/{kind}"
        if kind in enabled:
            yield Finding(SECTION, Level.OK, subject, f"{whom}: xenbackd's to serve")
        elif kind in KERNEL and probe.exists(f"/sys/module/{KERNEL[kind]}"):
            yield Finding(SECTION, Level.OK, subject, f"{whom}: served by the kernel")
        elif kind == "console":
            yield Finding(SECTION, Level.OK, subject, f"{whom}: served by xenconsoled or QEMU")
        elif not (alone := guests - behind if kind in QEMU else guests):
            yield Finding(SECTION, Level.OK, subject, f"{whom}: served by QEMU")
        else:
            remedy = f"Enable the type {kind} here, if there is a handler for it."
            text = f"{whom}: nobody we know serves domain {_listed(alone)}"
            yield Finding(SECTION, Level.WARNING, subject, text, remedy)


def device_model(process: Process) -> DeviceModel | None:
    """What a process is to libxl; None for any that is not started for a guest."""
    words = process.command
    names = [word.rpartition("/")[2] for word in words[:3]]
    ours_ = "xenbackd-device-model" in names
    if not ours_ and "qemu" not in names[0]:
        return None
    for option, value in pairwise(words):
        if option in ("-xen-domid", "--xen-domid") and _DOMID.fullmatch(value):
            return DeviceModel(process.pid, int(value), ours_, hvm=not _is_pv(words))
    return None


def _is_pv(words: tuple[str, ...]) -> bool:
    pairs = pairwise(words)
    return any(
        option.lstrip("-") in ("machine", "M") and value.partition(",")[0] == "xenpv"
        for option, value in pairs
    )


def _is_devd(words: tuple[str, ...]) -> bool:
    return words[0].rpartition("/")[2] == "xl" and "devd" in words[1:]


def _has_directory(
    domid: int, kinds: list[str], backends: Mapping[str, frozenset[int]] | None
) -> bool:
    return backends is not None and any(domid in backends.get(kind, ()) for kind in kinds)


def _listed(numbers: Iterable[int]) -> str:
    ordered = sorted(numbers)
    more = ", …" if len(ordered) > SHOWN_MAX else ""
    return ", ".join(map(str, ordered[:SHOWN_MAX])) + more
