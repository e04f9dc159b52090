# SPDX-License-Identifier: MIT
"""What `doctor` says about a host with xl: who serves which directory, and who else would.

Pure, as `doctor_checks`. Two servers of one directory destroy what its device holds; what is on a
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
from shared.device_types import own_types, resolve
from supervisor.cli.doctor_probe import Probe, Process
from supervisor.cli.doctor_types import XEN, Finding, Level
from supervisor.cli.text import plural

SECTION: Final = "Real Xen"

KERNEL: Final = {"vif": "xen_netback", "vscsi": "xen_scsiback", "pvcalls": "pvcalls_back"}
"""Directory to the module of Linux that serves it, of kinds that no installed type names."""

QEMU: Final = frozenset({"qnic", "vfb", "vkbd", "9pfs", "qusb"})
"""Directories that a QEMU serves to its guest (Xen's docs/misc/qemu-backends.txt), of kinds that no
installed type names."""

NOT_BY_DEVD: Final = frozenset({"qnic", "vfb", "vkbd", "qusb"})
"""Directories for which `xl devd` starts no QEMU (libxl_device.c, add_device)."""

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


@dataclass(frozen=True, slots=True)
class Kinds:
    """Who else serves the directories there may be: what installed types say, and the rest."""

    enabled: frozenset[str]
    kernel: Mapping[str, str]
    """Directory to the module of Linux that serves it."""
    qemu: frozenset[str]
    instead: Mapping[str, str]
    """Directory that the kernel takes to one of the same type that nobody else takes."""


def kinds_of(config: Config) -> Kinds:
    """By the types of this distribution and those that the configuration serves with."""
    on = {name: one for name, one in config.types.items() if one.enabled}
    types = {one.name: one for one in own_types()}
    types |= {one.handler: resolve(one.handler) for one in on.values()}
    kinds = [(kind, type_) for type_ in types.values() for kind in type_.kinds]
    free = {
        type_.name: kind.name
        for kind, type_ in kinds
        if not kind.kernel_driver and not kind.device_model
    }
    taken = [(kind, type_) for kind, type_ in kinds if kind.kernel_driver]
    return Kinds(
        enabled=frozenset(on),
        kernel={kind.name: kind.kernel_driver for kind, _ in taken} | KERNEL,
        qemu=QEMU | {kind.name for kind, _ in kinds if kind.device_model},
        instead={kind.name: free.get(type_.name, "") for kind, type_ in taken},
    )


def all_checks(probe: Probe, config: Config) -> Iterator[Finding]:
    """Every finding about xl, in the order of the report."""
    kinds = kinds_of(config)
    wanted = config.xenstore
    backends = probe.backends(wanted.transport, wanted.socket, wanted.device)
    models = [found for one in probe.processes() if (found := device_model(one)) is not None]
    yield from kernel(probe, kinds)
    yield from qemu(models, kinds, backends)
    yield from ours(models, kinds)
    yield from devd(probe, kinds)
    yield from directories(probe, kinds, backends, models)


def kernel(probe: Probe, kinds: Kinds) -> Iterator[Finding]:
    """The kernel's backends; one that competes with a type of ours gets its line in any case."""
    for kind, module in kinds.kernel.items():
        name = module.replace("_", "-")
        if not probe.exists(f"/sys/module/{module}"):
            if kind in kinds.instead:
                yield Finding(SECTION, Level.OK, name, "not loaded")
            continue
        text = f"the kernel serves {kind} itself"
        if kind not in kinds.enabled:
            yield Finding(SECTION, Level.OK, name, f"{text}; {kind} is not enabled here")
            continue
        other = f" (use {kinds.instead[kind]})" if kinds.instead.get(kind) else ""
        remedy = f"rmmod {name} and blacklist it, or disable the type {kind}{other}."
        yield Finding(SECTION, Level.MISSING, name, text, remedy, (XEN,))


def qemu(
    models: list[DeviceModel], kinds: Kinds, backends: Mapping[str, frozenset[int]] | None
) -> Iterator[Finding]:
    """QEMUs of guests: with a directory that is ours as well it is a conflict."""
    wanted = sorted(kinds.enabled & kinds.qemu)
    real = [one for one in models if not one.ours]
    shared = [one for one in real if _has_directory(one.domid, wanted, backends)]
    # Debian starts one for dom0 itself, which pygrub needs: it disturbs nobody else's.
    real = [one for one in real if one.domid != 0 or one in shared]
    if not real:
        yield Finding(SECTION, Level.OK, "QEMU", "none serves PV devices")
        return
    text = f"serves PV devices: process {_listed(one.pid for one in real)}"
    names = ", ".join(wanted)
    if not names:
        yield Finding(SECTION, Level.OK, "QEMU", text)
        return
    if shared:
        both = f"domain {_listed(one.domid for one in shared)}: QEMU and we serve {names}"
        if any(one.hvm for one in shared):
            remedy = f"HVM guests keep their QEMU: devices of another type, or disable {names}."
        else:
            remedy = "device_model_override in these guests' configurations (docs/xl.md)."
        yield Finding(SECTION, Level.MISSING, "QEMU", both, remedy, (XEN,))
        return
    remedy = f"Disable {names}, or give no such device to a guest with a QEMU."
    yield Finding(SECTION, Level.WARNING, "QEMU", text, remedy)


def ours(models: list[DeviceModel], kinds: Kinds) -> Iterator[Finding]:
    """Guests that have our device model: all their PV devices are left to us."""
    guests = [one.domid for one in models if one.ours]
    if not guests:
        return
    text = f"stands in for QEMU with {plural(len(guests), 'guest')}: domain {_listed(guests)}"
    level, remedy = Level.OK, ""
    if not kinds.enabled & kinds.qemu:
        names = ", ".join(sorted(kinds.qemu - QEMU))
        level, remedy = Level.WARNING, f"Enable {names}: nobody serves these guests' devices."
    yield Finding(SECTION, level, "xenbackd-device-model", text, remedy)


def devd(probe: Probe, kinds: Kinds) -> Iterator[Finding]:
    """The daemon of driver domains: starts a QEMU for each guest with a device of certain kinds."""
    found = [one.pid for one in probe.processes() if _is_devd(one.command)]
    if not found:
        return
    names = ", ".join(sorted(kinds.enabled & kinds.qemu - NOT_BY_DEVD))
    text = f"runs (process {_listed(found)})"
    if not names:
        yield Finding(SECTION, Level.OK, "xl devd", text)
        return
    remedy = "Stop it (systemctl disable --now xendriverdomain), or install our device model as its"
    remedy += " QEMU (docs/xl.md)."
    text += f" and starts a QEMU for {names}"
    yield Finding(SECTION, Level.WARNING, "xl devd", text, remedy)


def directories(
    probe: Probe,
    kinds: Kinds,
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
        if kind in kinds.enabled:
            yield Finding(SECTION, Level.OK, subject, f"{whom}: xenbackd's to serve")
        elif kind in kinds.kernel and probe.exists(f"/sys/module/{kinds.kernel[kind]}"):
            yield Finding(SECTION, Level.OK, subject, f"{whom}: served by the kernel")
        elif kind == "console":
            yield Finding(SECTION, Level.OK, subject, f"{whom}: served by xenconsoled or QEMU")
        elif not (alone := guests - behind if kind in kinds.qemu else guests):
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
