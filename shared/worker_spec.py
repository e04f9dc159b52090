# SPDX-License-Identifier: MIT
"""What a worker is told at its birth, by the supervisor through the fork server.

The only thing that crosses that way as a Python object is one `bytes`: this structure encoded.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from shared.device_id import DeviceId

HypervisorKind = Literal["xen", "embedded"]


class JailSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What confines a worker (worker/jail); what a worker without root cannot do is left out."""

    mode: Literal["enforce", "log"]
    uid: int
    """User and group of the worker's own; 0: the supervisor is not root, so it stays as it is."""
    keep: str
    """Directory of the supervisor's worker socket: all that is left of the file system."""
    open_files: int
    pids: int
    memory: int = 256
    """MiB; also bounded where there is no control group, only more loosely."""
    cgroup: str = ""
    """Directory of its control group (v2), made by the supervisor; "" without."""


class WorkerSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything a worker knows that no message tells it."""

    device: DeviceId
    generation: int
    backend_domid: int
    """Domain the worker runs in, 0 for dom0."""
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
    """Path of the device's journal, which is also the lock of its worker; "" without."""
    jail: JailSpec | None = None
    log_level: str = "info"
    log_format: str = "text"
    beat: float = 1.0
    """Seconds between two beats."""
    drain: float = 10.0
    """Seconds it has for its orderly end before it is killed."""
    orphan_grace: float = 0.0
    """Seconds the worker serves on without a supervisor; 0: it ends at once, in order."""

    def encode(self) -> bytes:
        """Encode for the fork server."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> WorkerSpec:
        """Inverse of `encode`."""
        return msgspec.msgpack.decode(data, type=cls)
