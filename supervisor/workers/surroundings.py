# SPDX-License-Identifier: MIT
"""What all workers of one supervisor share, as their links see it.

Processes, sockets and files are behind protocols, so that unit tests put lists and dictionaries in
their place.
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
from supervisor.workers.confinement.jails import Jails
from supervisor.workers.ends import OomKills
from supervisor.workers.journals import Journals
from supervisor.workers.peer import BusListener
from supervisor.workers.records import WorkerRecord
from supervisor.workers.spawner import ProcessOwner


class Processes(Protocol):
    """`supervisor.workers.spawner.Spawner`, as links see it."""

    def start(self, spec: WorkerSpec, owner: ProcessOwner) -> None:
        """Start the next generation."""

    def adopt(self, device: DeviceId, pidfd: int, owner: ProcessOwner) -> None:
        """Take over an earlier supervisor's worker."""

    def said_hello(self, device: DeviceId) -> None:
        """The worker is up."""

    def abort(self, device: DeviceId) -> None:
        """SIGABRT: write where you stand, and end."""

    def kill(self, device: DeviceId) -> None:
        """SIGKILL; `worker_exited` follows."""


class Messages(Protocol):
    """`supervisor.workers.bus.Bus`, as links see it."""

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
    """`supervisor.workers.records.Records`, as links see it."""

    def write(self, record: WorkerRecord) -> None:
        """Replace a device's file."""

    def remove(self, device: DeviceId) -> None:
        """The worker is dead."""


@dataclass(slots=True, kw_only=True)
class Surroundings:
    """Handed to every link. A reload replaces `config` as a whole."""

    config: Config
    processes: Processes
    messages: Messages
    records: Files
    events: EventLog
    clock: Callable[[], float]
    """Seconds, monotonic: the loop's time."""
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
