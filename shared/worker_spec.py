# SPDX-License-Identifier: MIT
"""What the supervisor tells a worker at its start, through the fork server.

Only one Python object takes this way: `bytes` with the encoded structure.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from shared.device_id import DeviceId

HypervisorKind = Literal["xen", "embedded"]


class JailSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What confines a worker (worker/jail). Without root, steps that need it are left out."""

    mode: Literal["enforce", "log"]
    uid: int
    """User and group of the worker alone; 0: the supervisor is not root, so the user stays."""
    keep: str
    """Directory of the supervisor's worker socket: all that is left of the file system."""
    open_files: int
    pids: int
    memory: int = 256
    """MiB. Without a control group the limit still holds, but more loosely."""
    cgroup: str = ""
    """Directory of its control group (v2), which the supervisor has made; "": it has none."""


class WorkerSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that a worker knows without being told by a message."""

    device: DeviceId
    generation: int
    backend_domid: int
    """The domain that the worker runs in; 0: dom0."""
    handler: str
    """Name of the device type."""
    manifest: str = ""
    """Where its manifest is (`shared.device_types.place_of`); "" to look for it."""
    options: dict[str, Any]
    endpoint: str
    """Path of the supervisor's worker socket."""
    hypervisor: HypervisorKind
    embedded_dir: str
    """Directory of the embedded hypervisor; "" with real Xen."""
    supervisor_pid: int
    journal: str = ""
    """Path of the device's journal, which is also the lock of its worker; "": it has none."""
    jail: JailSpec | None = None
    log_level: str = "info"
    log_format: str = "text"
    beat: float = 1.0
    """Seconds between two beats."""
    drain: float = 10.0
    """Seconds for its orderly stop; after that it is killed."""
    orphan_grace: float = 0.0
    """Seconds that the worker serves on without a supervisor; 0: it stops at once, in order."""

    def encode(self) -> bytes:
        """Encode for the fork server."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> WorkerSpec:
        """Inverse of `encode`."""
        return msgspec.msgpack.decode(data, type=cls)
