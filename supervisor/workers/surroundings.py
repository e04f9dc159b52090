# SPDX-License-Identifier: MIT
"""What all devices of one supervisor share, and the shapes in which they see it.

Protocols, so that unit tests put dictionaries and lists in the place of processes and sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from config.model import Config
from shared.device_id import DeviceId
from shared.messages import Message
from shared.worker_spec import HypervisorKind, WorkerSpec
from supervisor.events import EventLog
from supervisor.policy.budget import RestartBudget
from supervisor.workers.bus import BusListener
from supervisor.workers.confinement.jails import Jails
from supervisor.workers.journals import Journals
from supervisor.workers.oom import OomKills
from supervisor.workers.records import Orphan, WorkerRecord
from supervisor.workers.spawner import WorkerOwner
from supervisor.xenstore.publisher import Publisher
from supervisor.xenstore.store import Store


class Processes(Protocol):
    """`supervisor.workers.spawner.Spawner`, as devices see it."""

    def start(self, spec: WorkerSpec, owner: WorkerOwner) -> None:
        """Start the next generation."""

    def adopt(self, device: DeviceId, pidfd: int, owner: WorkerOwner) -> None:
        """Take over an earlier supervisor's worker."""

    def said_hello(self, device: DeviceId) -> None:
        """The worker is up."""

    def abort(self, device: DeviceId) -> None:
        """SIGABRT: write where you stand, and end."""

    def kill(self, device: DeviceId) -> None:
        """SIGKILL; `worker_exited` follows."""


class Messages(Protocol):
    """`supervisor.workers.bus.Bus`, as devices see it."""

    def expect(
        self, device: DeviceId, generation: int, pid: int, uid: int, listener: BusListener
    ) -> None:
        """A worker was forked."""

    def adopt(
        self, device: DeviceId, generation: int, pid: int, uid: int, listener: BusListener
    ) -> None:
        """A worker of an earlier supervisor may come back."""

    def forget(self, device: DeviceId) -> None:
        """The worker is dead."""

    def next_seq(self, device: DeviceId) -> int:
        """Number of the next message."""

    def send(self, message: Message) -> bool:
        """Queue a message; False if it cannot be."""

    def drain(self) -> None:
        """Hand out what has arrived."""


class Files(Protocol):
    """`supervisor.workers.records.Records`, as devices see it."""

    def write(self, record: WorkerRecord) -> None:
        """Replace a device's file."""

    def remove(self, device: DeviceId) -> None:
        """The worker is dead."""


@dataclass(slots=True)
class Services:
    """Handed to every device. `config` is replaced as a whole by a reload."""

    config: Config
    store: Store
    publisher: Publisher
    processes: Processes
    messages: Messages
    records: Files
    events: EventLog
    clock: Callable[[], float]
    """Seconds, monotonic: the loop's time."""
    forget: Callable[[DeviceId], None]
    """The device is over; drop it."""
    own_path: str
    own_domid: int
    endpoint: str
    hypervisor: HypervisorKind
    embedded_dir: str
    supervisor_pid: int
    jails: Jails
    budget: RestartBudget = field(default_factory=RestartBudget)
    oom: OomKills = field(default_factory=OomKills)
    journals: Journals | None = None
    """Where workers keep what is in flight; None: nowhere."""
    orphans: dict[DeviceId, Orphan] = field(default_factory=dict)
    """What an earlier supervisor left and no device has taken over yet."""
