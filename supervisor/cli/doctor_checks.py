# SPDX-License-Identifier: MIT
"""What `doctor` looks for, as pure functions over a `Probe`.

Each check yields findings; each finding has its remedy unless all is well. A finding that is
`MISSING` names what cannot be served because of it. Nothing here touches the host.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from config.model import Config, TypeConfig
from shared.device_types import DeviceType, resolve
from shared.hypervisor.libraries import LIBRARIES
from supervisor.cli import doctor_jail, doctor_xl
from supervisor.cli.doctor_probe import Probe
from supervisor.cli.doctor_types import BOTH, EMBEDDED, XEN, Finding, Level
from supervisor.cli.text import plural

PACKAGES: Final = ("zmq", "msgspec", "cffi", "pyxs", "multiprocess", "setproctitle")

NATIVE_MODULES: Final[dict[str, tuple[str, ...]]] = {
    "shared.native._slice": BOTH,
    "worker.native._process": BOTH,
    "worker.jail.native._jail": BOTH,
    "worker.jail.native._seccomp": BOTH,
    "shared.hypervisor.native._xen": (XEN,),
    "embedded.native._embedded": (EMBEDDED,),
}
"""Native module of every worker to what cannot be served without it. A test tries each out."""

FEATURES: Final = {
    "pidfd": ("5.3", Level.MISSING, "deaths of workers are seen by it"),
    "close_range": ("5.9", Level.WARNING, "descriptors are closed one by one instead"),
    "memfd": ("3.17", Level.WARNING, "the embedded hypervisor keeps guest memory in it"),
    "landlock": ("5.13", Level.WARNING, "workers are confined without it"),
}
"""Feature to the kernel that brought it, what its absence is, and what that means."""

TYPE_FEATURES: Final = {"RWF_NOWAIT": "4.14", "io_uring": "5.1"}
"""Feature that a device type may be better with, to the kernel that brought it."""

DESCRIPTORS_BASE: Final = 64
DESCRIPTORS_PER_DEVICE: Final = 4
"""What the supervisor may hold open: in general, and for each worker (its pidfd, its connection
to the bus, and as many again in reserve)."""


def all_checks(probe: Probe, config: Config, run_dir: str, devices: int) -> list[Finding]:
    """Every finding, in the order of the report.

    Args:
        probe: the host.
        config: the configuration, or the defaults.
        run_dir: the runtime directory in use.
        devices: how many devices there shall be room for.
    """
    types = enabled_types(config)
    return [
        *python(probe),
        *native_modules(probe, types),
        *kernel(probe, types),
        *doctor_jail.all_checks(probe, config),
        *descriptors(probe, devices),
        *runtime_directory(probe, run_dir),
        *xen(probe),
        *xen_devices(probe),
        *xen_libraries(probe),
        *xenstore(probe, config),
        *doctor_xl.all_checks(probe, config),
        *embedded(probe),
    ]


def python(probe: Probe) -> Iterator[Finding]:
    """The interpreter and the packages."""
    version = probe.python()
    shown = ".".join(map(str, version))
    if version >= (3, 11):
        yield Finding("Python", Level.OK, "Python", shown)
    else:
        remedy = "Install Python 3.11 or newer (Debian 12 has it)."
        yield Finding("Python", Level.MISSING, "Python", f"{shown} is too old", remedy, BOTH)
    for name, error in probe.import_errors(PACKAGES).items():
        if error:
            remedy = "Install xenbackd again into its environment (make setup, or pipx install)."
            yield Finding("Python", Level.MISSING, f"package {name}", error, remedy, BOTH)
        else:
            yield Finding("Python", Level.OK, f"package {name}", "can be imported")


def enabled_types(config: Config) -> list[DeviceType]:
    """The device types that the configuration serves with, each once."""
    return [resolve(name) for name in sorted({one.handler for one in enabled(config)})]


def enabled(config: Config) -> list[TypeConfig]:
    """What is switched on."""
    return [one for one in config.types.values() if one.enabled]


def native_modules(probe: Probe, types: Sequence[DeviceType]) -> Iterator[Finding]:
    """Our own modules in C, and those of the types; a type's guest side serves nothing."""
    modules = dict(NATIVE_MODULES)
    for type_ in types:
        modules |= dict.fromkeys(type_.native_modules, BOTH)
        modules |= dict.fromkeys(type_.guest_modules, ())
    for name, error in probe.import_errors(tuple(modules)).items():
        blocks = modules[name]
        if not error:
            yield Finding("Python", Level.OK, f"native {name}", "can be imported")
            continue
        remedy = "Build it: make setup (needs gcc and the headers of Python and libffi)."
        level = Level.MISSING if blocks else Level.WARNING
        yield Finding("Python", level, f"native {name}", error, remedy, blocks)


def kernel(probe: Probe, types: Sequence[DeviceType]) -> Iterator[Finding]:
    """What the kernel offers to every worker, and to those of these types."""
    features = dict(FEATURES)
    for type_ in types:
        for name, meaning in (type_.kernel_features or {}).items():
            if name in TYPE_FEATURES:
                features[name] = (TYPE_FEATURES[name], Level.WARNING, meaning)
            elif name not in FEATURES:  # a manifest can be foreign, and newer than this doctor
                text = f"device type {type_.name} asks for it, and doctor does not know it"
                remedy = f"See what {type_.name} says of it."
                yield Finding("Kernel", Level.WARNING, name, text, remedy)
    yield Finding("Kernel", Level.OK, "Linux", probe.kernel())
    for name, (since, level, meaning) in features.items():
        if probe.feature(name):
            yield Finding("Kernel", Level.OK, name, "can be used")
            continue
        remedy = f"Linux {since} or newer has it, unless the host's policy forbids it."
        blocks = BOTH if level is Level.MISSING else ()
        yield Finding("Kernel", level, name, f"not available: {meaning}", remedy, blocks)


def descriptors(probe: Probe, devices: int) -> Iterator[Finding]:
    """Room for so many devices in the limit of open descriptors."""
    needed = DESCRIPTORS_BASE + DESCRIPTORS_PER_DEVICE * devices
    hard = probe.descriptors()[1]
    # The supervisor raises its own soft limit; -1 is RLIM_INFINITY.
    fits = hard < 0 or hard >= needed
    allowed = "without limit" if hard < 0 else str(hard)
    text = f"{allowed}; {plural(devices, 'device')} need {needed}"
    remedy = "" if fits else f"LimitNOFILE={needed} in the unit, or ulimit -Hn {needed}."
    level = Level.OK if fits else Level.WARNING
    yield Finding("Host", level, "open descriptors", text, remedy)


def runtime_directory(probe: Probe, run_dir: str) -> Iterator[Finding]:
    """The directory of the sockets: ours, and nobody else's to write."""
    found = probe.directory(run_dir)
    if found is None:
        parent = run_dir.rpartition("/")[0] or "/"
        if probe.openable(parent) or probe.directory(parent) is None:
            yield Finding("Host", Level.OK, "runtime directory", f"{run_dir}: is made by serve")
            return
        text, remedy = f"{run_dir}: cannot be made", "Run as root, or name another by --run-dir."
    elif found.uid not in (0, probe.uid()):
        text = f"{run_dir}: belongs to user id {found.uid}"
        remedy = "Remove it, or name another by --run-dir."
    elif found.mode & 0o022:
        text = f"{run_dir}: others may write it (mode {found.mode:o})"
        remedy = f"chmod go-w {run_dir}"
    elif not probe.openable(run_dir):
        text, remedy = f"{run_dir}: not for this user", "Run as root, or use another --run-dir."
    else:
        yield Finding("Host", Level.OK, "runtime directory", run_dir)
        return
    yield Finding("Host", Level.MISSING, "runtime directory", text, remedy, BOTH)


def on_xen(probe: Probe) -> bool:
    """Whether this Linux runs on Xen."""
    return probe.read("/sys/hypervisor/type") == "xen"


def xen(probe: Probe) -> Iterator[Finding]:
    """The hypervisor below us, and which domain we are."""
    section = "Real Xen"
    if not on_xen(probe):
        remedy = "Boot Linux as dom0 or as a driver domain; without Xen use --embedded."
        yield Finding(section, Level.MISSING, "Xen", "Linux does not run on Xen", remedy, (XEN,))
        return
    parts = [probe.read(f"/sys/hypervisor/version/{part}") for part in ("major", "minor", "extra")]
    version = f"{parts[0] or '?'}.{parts[1] or '?'}{parts[2] or ''}"
    yield Finding(section, Level.OK, "Xen", version)
    capabilities = probe.read("/proc/xen/capabilities")
    if capabilities is None:
        remedy = "mount -t xenfs xenfs /proc/xen (package xen-utils-common)."
        yield Finding(section, Level.WARNING, "xenfs", "/proc/xen is not mounted", remedy)
    else:
        yield Finding(section, Level.OK, "xenfs", "mounted at /proc/xen")
    yield own_domain(probe, capabilities)


def own_domain(probe: Probe, capabilities: str | None) -> Finding:
    """Our own domain: dom0 says so itself, another's number is known to xenstore only."""
    uuid = probe.read("/sys/hypervisor/uuid")
    if (capabilities and "control_d" in capabilities) or uuid == _DOM0_UUID:
        return Finding("Real Xen", Level.OK, "own domain", "0 (dom0)")
    text = f"not dom0 (UUID {uuid or 'unknown'}): a driver domain"
    return Finding("Real Xen", Level.OK, "own domain", text)


_DOM0_UUID: Final = "00000000-0000-0000-0000-000000000000"


def xen_devices(probe: Probe) -> Iterator[Finding]:
    """The devices of the kernel's Xen drivers."""
    needed = {
        "evtchn": ("xen-evtchn", (XEN,)),
        "gntdev": ("xen-gntdev", (XEN,)),
        "xenbus": ("xenbus_dev_frontend (built in)", ()),
        "privcmd": ("xen-privcmd", ()),
    }
    for name, (module, blocks) in needed.items():
        path = f"/dev/xen/{name}"
        if not probe.exists(path):
            text, remedy = "is not there", f"modprobe {module.split()[0]}"
        elif not probe.openable(path):
            text, remedy = "not for this user", "Run as root."
        else:
            yield Finding("Real Xen", Level.OK, path, "can be opened")
            continue
        level = Level.MISSING if blocks else Level.WARNING
        yield Finding("Real Xen", level, path, text, remedy, blocks)


def xen_libraries(probe: Probe) -> Iterator[Finding]:
    """libxen*, loaded at run time."""
    for library in LIBRARIES:
        found = next((name for name in library.sonames if probe.loadable(name)), None)
        if found is not None:
            yield Finding("Real Xen", Level.OK, library.name, found)
            continue
        text = f"not found ({', '.join(library.sonames)})"
        remedy = f"apt install {library.package}"
        yield Finding("Real Xen", Level.MISSING, library.name, text, remedy, (XEN,))


def xenstore(probe: Probe, config: Config) -> Iterator[Finding]:
    """A way to xenstored: its socket, or the kernel's device."""
    wanted = config.xenstore
    error = ""
    if wanted.transport in ("auto", "socket"):
        error = probe.connectable(wanted.socket)
        if not error:
            yield Finding("Real Xen", Level.OK, "xenstore", f"socket {wanted.socket}")
            return
        error = f"socket {wanted.socket}: {error}"
    if wanted.transport in ("auto", "device"):
        if probe.openable(wanted.device):
            yield Finding("Real Xen", Level.OK, "xenstore", f"device {wanted.device}")
            return
        error = f"{error}{'; ' if error else ''}device {wanted.device}: cannot be opened"
    remedy = "systemctl start xenstored (dom0), or modprobe xen-evtchn and run as root."
    yield Finding("Real Xen", Level.MISSING, "xenstore", error, remedy, (XEN,))


def embedded(probe: Probe) -> Iterator[Finding]:
    """What the embedded hypervisor needs besides Python and its native module."""
    if probe.feature("memfd"):
        yield Finding("Embedded", Level.OK, "shared memory", "memfd")
    else:
        remedy = "Use a kernel with CONFIG_MEMFD_CREATE."
        yield Finding("Embedded", Level.MISSING, "shared memory", "no memfd", remedy, (EMBEDDED,))


def can_serve(findings: list[Finding], what: str) -> bool:
    """Whether nothing found stands against serving on `XEN` or `EMBEDDED`."""
    return not any(what in finding.blocks for finding in findings)


def chosen(probe: Probe, hypervisor: str) -> str:
    """What the configuration's `hypervisor` means on this host: `XEN` or `EMBEDDED`.

    `auto` is real Xen where the event-channel device is: the rule of the supervisor.
    """
    if hypervisor == "auto":
        return XEN if probe.exists("/dev/xen/evtchn") else EMBEDDED
    return XEN if hypervisor == "xen" else EMBEDDED
