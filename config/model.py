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
    quarantine_failures: Annotated[int, Meta(ge=1, le=1000)] = 5
    quarantine_window: Seconds = 300.0


class LimitsConfig(_Section, frozen=True):
    devices_per_domain: Annotated[int, Meta(ge=1, le=4096)] = 64
    parallel_starts: Annotated[int, Meta(ge=1, le=256)] = 8
    """Workers that may be between fork and Hello at one time."""


class TimeoutsConfig(_Section, frozen=True):
    hello: Seconds = 10.0
    """Start of a worker to its Hello."""
    hook: Seconds = 10.0
    """Answer to init, initialise and disconnect."""
    drain: Seconds = 10.0
    """Orderly stop of one worker before it is killed."""
    stop: Seconds = 45.0
    """All of `serve` going down."""
    beat: Annotated[float, Meta(ge=0.1, le=60)] = 1.0
    """Seconds between two beats of a worker's ring loop."""
    beat_dead: Seconds = 10.0
    """Seconds without a beat after which a worker counts as hung and is killed."""


class TypeConfig(_Section, frozen=True):
    """One device type: the name of its directory below backend/ is the key in the file."""

    handler: str
    """Name of the entry point in the group xenbackd.devices, for instance block."""
    enabled: bool = True
    log_level: Level | None = None
    restart: RestartConfig | None = None
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
    timeouts: TimeoutsConfig = TimeoutsConfig()
    types: dict[str, TypeConfig] = {}
