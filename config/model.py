# SPDX-License-Identifier: MIT
"""The typed model of the configuration file, with every default.

It imports nothing of ours, so every module may import it. Durations are in seconds unless the name
says otherwise.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Level = Literal["debug", "info", "warning", "error"]
Seconds = Annotated[float, Meta(ge=0, le=86400)]
Count = Annotated[int, Meta(ge=1, le=100_000)]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class XenstoreConfig(_Section, frozen=True):
    """How to reach xenstored."""

    transport: Literal["auto", "socket", "device"] = "auto"
    """auto: the socket where it exists, otherwise the kernel's device (driver domains)."""
    socket: str = "/var/run/xenstored/socket"
    device: str = "/dev/xen/xenbus"
    timeout: Annotated[float, Meta(gt=0, le=600)] = 5.0
    """Seconds that one request may take before the connection counts as lost."""


class LogConfig(_Section, frozen=True):
    level: Level = "info"
    format: Literal["text", "json"] = "text"


class RestartConfig(_Section, frozen=True):
    """What happens after a worker fails: the first restart at once, then with back-off."""

    initial: Seconds = 0.5
    factor: Annotated[float, Meta(ge=1, le=100)] = 2.0
    max: Seconds = 60.0
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.2
    stable_after: Seconds = 300.0
    """Seconds of uninterrupted service after which earlier failures are forgotten."""
    quarantine_failures: Count = 5
    quarantine_window: Seconds = 300.0
    host_failures_free: Annotated[int, Meta(ge=0, le=100_000)] = 3
    """How many temporary failures of the host within the window do not count for quarantine."""
    guest_faults: Count = 3
    guest_window: Seconds = 60.0
    """`guest_faults` protocol faults of the guest within this time end in quarantine."""


class LimitsConfig(_Section, frozen=True):
    devices_per_domain: Annotated[int, Meta(ge=1, le=4096)] = 64
    parallel_starts: Annotated[int, Meta(ge=1, le=256)] = 8
    """How many workers may be between fork and Hello at one time."""
    domain_restarts: Count = 20
    domain_window: Seconds = 600.0
    """One domain's workers may restart `domain_restarts` times within this; the next one waits."""
    restart_rate: Annotated[float, Meta(gt=0, le=100_000)] = 10.0
    """Restarts per second for all domains together, after the burst."""
    restart_burst: Count = 50
    """Restarts that all domains together may have at once."""


class DeviceTimeouts(_Section, frozen=True):
    """Time limits of one device."""

    hello: Seconds = 10.0
    """From the start of a worker to its Hello."""
    hook: Seconds = 10.0
    """For the answer to each of init, initialise and disconnect."""
    drain: Seconds | None = None
    """For the orderly stop of one worker before it is killed; None: what the device type says."""
    beat: Annotated[float, Meta(ge=0.1, le=60)] = 1.0
    """Seconds between two beats of a worker's ring loop."""
    beat_late: Seconds = 3.0
    """Seconds without a beat after which a worker is reported as late."""
    beat_dead: Seconds = 10.0
    """Seconds without a beat after which a worker counts as hung and is killed."""
    abort: Seconds = 2.0
    """Seconds between SIGABRT, which makes a hung worker log where it hangs, and SIGKILL."""
    progress_warn: Seconds = 10.0
    """Seconds with requests pending and none finished before the device is reported as slow."""
    progress_stalled: Seconds = 30.0
    """The same for stalled. The worker is not killed for either."""


class TimeoutsConfig(DeviceTimeouts, frozen=True):
    stop: Seconds = 45.0
    """For the orderly stop of everything when `serve` ends."""


class JailConfig(_Section, frozen=True):
    """What confines a worker before it looks at anything that a guest wrote."""

    mode: Literal["enforce", "log", "off"] = "enforce"
    """log: the kernel logs forbidden system calls and allows them; off: no jail."""
    unjailed_root: bool = False
    """Let workers run as root without a jail. A guest that takes one over then has the host."""
    uid_base: Annotated[int, Meta(ge=1, le=4_000_000_000)] = 1_879_048_192
    """First user id of workers. Each worker has an id of its own and the group of the same number.
    The default range begins after the one that systemd gives to containers (its UIDS-GIDS.md)."""
    uids: Annotated[int, Meta(ge=1, le=1_000_000)] = 32_768
    memory: Annotated[int, Meta(ge=16, le=1_048_576)] = 256
    """MiB, of one worker's control group."""
    pids: Annotated[int, Meta(ge=4, le=4096)] = 64
    """Threads of one worker, limited for its control group and for its user id."""
    open_files: Annotated[int, Meta(ge=32, le=65_536)] = 256
    cpu_weight: Annotated[int, Meta(ge=1, le=10_000)] = 100
    io_weight: Annotated[int, Meta(ge=1, le=10_000)] = 100


class TypeConfig(_Section, frozen=True):
    """One entry of `types`; its key is the name of a directory below backend/."""

    handler: str
    """Name of a device type, which is an entry point of the group `xenbackd.devices`."""
    enabled: bool = True
    log_level: Level | None = None
    restart: RestartConfig | None = None
    timeouts: DeviceTimeouts | None = None
    jail: JailConfig | None = None
    orphan: Literal["survive", "die"] = "survive"
    """What a worker does when its supervisor dies. survive: serve on until the next supervisor
    adopts it. die: finish the requests in flight and end."""
    orphan_grace: Seconds = 300.0
    """Seconds that a surviving worker waits for the next supervisor before it ends too."""
    options: dict[str, Any] = {}
    """Options of the device type; checked against the type's own model."""


class Config(_Section, frozen=True):
    """The whole file."""

    runtime_dir: str = "/run/xenbackd"
    hypervisor: Literal["auto", "xen", "embedded"] = "auto"
    embedded_dir: str | None = None
    """Directory of the embedded hypervisor; None: `embedded` below the runtime directory."""
    xenstore: XenstoreConfig = XenstoreConfig()
    log: LogConfig = LogConfig()
    restart: RestartConfig = RestartConfig()
    limits: LimitsConfig = LimitsConfig()
    jail: JailConfig = JailConfig()
    timeouts: TimeoutsConfig = TimeoutsConfig()
    types: dict[str, TypeConfig] = {}


def drain_of(timeouts: DeviceTimeouts, otherwise: float) -> float:
    """Seconds a worker has for its orderly stop; `otherwise` is what its device type says."""
    return otherwise if timeouts.drain is None else timeouts.drain
