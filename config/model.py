# SPDX-License-Identifier: MIT
"""The typed model of the configuration file. Every default stands here and nowhere else.

Imports nothing of ours, so that everybody may import it. Durations are seconds unless the name
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
    """How xenstored is reached."""

    transport: Literal["auto", "socket", "device"] = "auto"
    """auto: the socket where it exists, otherwise the kernel's device (driver domains)."""
    socket: str = "/var/run/xenstored/socket"
    device: str = "/dev/xen/xenbus"
    timeout: Annotated[float, Meta(gt=0, le=600)] = 5.0
    """Seconds one request may take before xenstored counts as gone."""


class LogConfig(_Section, frozen=True):
    level: Level = "info"
    format: Literal["text", "json"] = "text"


class RestartConfig(_Section, frozen=True):
    """What happens after a worker failed: the first restart at once, then with back-off."""

    initial: Seconds = 0.5
    factor: Annotated[float, Meta(ge=1, le=100)] = 2.0
    max: Seconds = 60.0
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.2
    stable_after: Seconds = 300.0
    """Seconds of uninterrupted service after which earlier failures are forgotten."""
    quarantine_failures: Count = 5
    quarantine_window: Seconds = 300.0
    host_failures_free: Annotated[int, Meta(ge=0, le=100_000)] = 3
    """Temporary failures of the host within the window that do not count for quarantine."""
    guest_faults: Count = 3
    guest_window: Seconds = 60.0
    """So many protocol faults of the guest within the window end in quarantine."""


class LimitsConfig(_Section, frozen=True):
    devices_per_domain: Annotated[int, Meta(ge=1, le=4096)] = 64
    parallel_starts: Annotated[int, Meta(ge=1, le=256)] = 8
    """Workers that may be between fork and Hello at one time."""
    domain_restarts: Count = 20
    domain_window: Seconds = 600.0
    """Restarts of one domain's workers within the window; the next one waits for room."""
    restart_rate: Annotated[float, Meta(gt=0, le=100_000)] = 10.0
    """Restarts per second over all domains..."""
    restart_burst: Count = 50
    """... after so many at once."""


class DeviceTimeouts(_Section, frozen=True):
    """The times that matter to one device."""

    hello: Seconds = 10.0
    """Start of a worker to its Hello."""
    hook: Seconds = 10.0
    """Answer to init, initialise and disconnect."""
    drain: Seconds | None = None
    """Orderly stop of one worker before it is killed; None: as the device type says."""
    beat: Annotated[float, Meta(ge=0.1, le=60)] = 1.0
    """Seconds between two beats of a worker's ring loop."""
    beat_late: Seconds = 3.0
    """Seconds without a beat after which a worker is said to be late."""
    beat_dead: Seconds = 10.0
    """Seconds without a beat after which a worker counts as hung and is killed."""
    abort: Seconds = 2.0
    """Seconds between SIGABRT, which has a hung worker write where it stands, and SIGKILL."""
    progress_warn: Seconds = 10.0
    """Requests pending and none finished for so long: said once."""
    progress_stalled: Seconds = 30.0
    """The same: the device is called stalled. It is never killed for that."""


class TimeoutsConfig(DeviceTimeouts, frozen=True):
    stop: Seconds = 45.0
    """All of `serve` going down."""


class JailConfig(_Section, frozen=True):
    """What a worker is confined by before it touches anything that a guest wrote."""

    mode: Literal["enforce", "log", "off"] = "enforce"
    """log: what the system-call filter forbids is logged by the kernel and happens all the same;
    off: no jail."""
    unjailed_root: bool = False
    """Let workers run as root without a jail: a guest that takes one over has the host."""
    uid_base: Annotated[int, Meta(ge=1, le=4_000_000_000)] = 1_879_048_192
    """First of the user ids of workers; each has its own, and the group of the same number. The
    default begins after what systemd gives to containers (UIDS-GIDS.md)."""
    uids: Annotated[int, Meta(ge=1, le=1_000_000)] = 32_768
    memory: Annotated[int, Meta(ge=16, le=1_048_576)] = 256
    """MiB of one worker's control group."""
    pids: Annotated[int, Meta(ge=4, le=4096)] = 64
    """Threads of one worker: of its control group and its user id."""
    open_files: Annotated[int, Meta(ge=32, le=65_536)] = 256
    cpu_weight: Annotated[int, Meta(ge=1, le=10_000)] = 100
    io_weight: Annotated[int, Meta(ge=1, le=10_000)] = 100


class TypeConfig(_Section, frozen=True):
    """One device type: the name of its directory below backend/ is the key in the file."""

    handler: str
    """Name of a device type: of an entry point in the group xenbackd.devices."""
    enabled: bool = True
    log_level: Level | None = None
    restart: RestartConfig | None = None
    timeouts: DeviceTimeouts | None = None
    jail: JailConfig | None = None
    orphan: Literal["survive", "die"] = "survive"
    """What a worker does whose supervisor died: serve on, to be adopted by the next one; or finish
    what is in flight and end."""
    orphan_grace: Seconds = 300.0
    """Seconds a surviving worker waits for that next supervisor before it ends all the same."""
    options: dict[str, Any] = {}
    """What the handler understands; checked against the handler's own model."""


class Config(_Section, frozen=True):
    """The whole file."""

    runtime_dir: str = "/run/xenbackd"
    hypervisor: Literal["auto", "xen", "embedded"] = "auto"
    embedded_dir: str | None = None
    """Directory of the embedded hypervisor; default: `embedded` below the runtime directory."""
    xenstore: XenstoreConfig = XenstoreConfig()
    log: LogConfig = LogConfig()
    restart: RestartConfig = RestartConfig()
    limits: LimitsConfig = LimitsConfig()
    jail: JailConfig = JailConfig()
    timeouts: TimeoutsConfig = TimeoutsConfig()
    types: dict[str, TypeConfig] = {}


def drain_of(timeouts: DeviceTimeouts, otherwise: float) -> float:
    """Seconds a worker has for its orderly end; `otherwise` is what its device type says."""
    return otherwise if timeouts.drain is None else timeouts.drain
