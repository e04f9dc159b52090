# SPDX-License-Identifier: MIT
"""What a worker has of the supervisor's, from before its fork until it is known dead.

A user id and a control group (`supervisor.workers.confinement.jails`), its place on the bus, the
count by which its control group tells of kills for lack of memory; and its file, which tells the
next supervisor all that it must know (`supervisor.workers.records`).
"""

from __future__ import annotations

import msgspec

from config.model import TypeConfig
from shared.device_id import DeviceId
from shared.device_types import place_of, resolve
from shared.worker_spec import WorkerSpec
from supervisor.policy.restart import Memory
from supervisor.workers.peer import BusListener
from supervisor.workers.records import WorkerRecord, digest, start_time
from supervisor.workers.surroundings import Files, Surroundings


class Lease:
    """Of one device, whose workers follow each other; `listener` hears what they say."""

    def __init__(self, device: DeviceId, around: Surroundings, listener: BusListener) -> None:
        self._device = device
        self._around = around
        self._listener = listener
        self.pid: int | None = None
        """Process of the worker, None while there is none."""

    def spec(
        self, generation: int, type_: TypeConfig, *, beat: float, drain: float, log_level: str
    ) -> WorkerSpec:
        """What the next worker is told at its birth; its jail is taken for it.

        Raises:
            HostError: its jail cannot be prepared; nothing is kept.
        """
        around, device = self._around, self._device
        journals = around.journals if resolve(type_.handler).journals else None
        return WorkerSpec(
            device=device,
            generation=generation,
            backend_domid=around.own_domid,
            handler=type_.handler,
            manifest=place_of(type_.handler),
            options=type_.options,
            endpoint=around.endpoint,
            hypervisor=around.hypervisor,
            embedded_dir=around.embedded_dir,
            supervisor_pid=around.supervisor_pid,
            journal=str(journals.path(device)) if journals else "",
            jail=around.jails.prepare(device, generation, type_.jail or around.config.jail),
            log_level=log_level,
            log_format=around.config.log.format,
            beat=beat,
            drain=drain,
            orphan_grace=type_.orphan_grace if type_.orphan == "survive" else 0.0,
        )

    def forked(self, pid: int) -> None:
        """It has a process."""
        self.pid = pid
        self._around.oom.watch(pid, self._around.jails.cgroup_of(self._device))

    def expect(self, generation: int) -> None:
        """Believe its messages from now on."""
        assert self.pid is not None
        uid = self._around.jails.uid_of(self._device)
        self._around.messages.expect(self._device, generation, self.pid, uid, self._listener)

    def adopt(self, generation: int, pid: int) -> None:
        """It was an earlier supervisor's: what it has is known by its record."""
        self.pid = pid
        uid = self._around.jails.uid_of(self._device)
        self._around.messages.adopt(self._device, generation, pid, uid, self._listener)

    def killed_by_kernel(self) -> bool:
        """It died of SIGKILL: whether the kernel sent it for lack of memory."""
        return self.pid is not None and self._around.oom.claim(self.pid)

    def end(self) -> None:
        """It is known dead, or never came to life."""
        self._around.messages.forget(self._device)
        self._around.jails.release(self._device)
        if self.pid is not None:
            self._around.oom.forget(self.pid)
        self.pid = None


class WorkerFile:
    """The record of one device (`supervisor.workers.records`), if there is anything to remember."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._record: WorkerRecord | None = None
        self._dead = False
        """The worker is dead: the record only holds what is remembered of it."""

    @property
    def ring(self) -> str:
        """`ring_identity` of what the worker was last connected with; "" if it never was."""
        return "" if self._record is None else self._record.ring

    def found(self, record: WorkerRecord) -> None:
        """Go on with what an earlier supervisor wrote."""
        self._record, self._dead = record, record.pid is None

    def begin(self, spec: WorkerSpec, frontend_path: str, memory: Memory) -> None:
        """A worker is about to be started: written before it can exist."""
        self._dead = False
        self._write(
            WorkerRecord(
                device=spec.device,
                generation=spec.generation,
                handler=spec.handler,
                options=digest(spec.options),
                frontend_path=frontend_path,
                uid=0 if spec.jail is None else spec.jail.uid,
                cgroup="" if spec.jail is None else spec.jail.cgroup,
                memory=memory,
            )
        )

    def forked(self, pid: int) -> None:
        """It has a process."""
        self._change(pid=pid, start_time=start_time(pid))

    def ring_given(self, identity: str) -> None:
        """The frontend's snapshot is on its way to it."""
        self._change(ring=identity)

    def forgiven(self, memory: Memory) -> None:
        """Failures were forgotten; the next supervisor must not count or quarantine for them."""
        if self._record is None:
            return
        if self._dead:
            self._files.remove(self._record.device)
            self._record = None
        else:
            self._change(memory=memory)

    def over(self, *, quarantined: bool, memory: Memory, held_until: float) -> None:
        """It is dead: only failures, and what they led to, are worth remembering.

        `held_until` is when the next may start (CLOCK_MONOTONIC, seconds), 0 if nothing waits.
        """
        record, self._record = self._record, None
        if record is None:
            return
        self._files.remove(record.device)
        if quarantined or memory != Memory():
            self._dead = True
            left = {"quarantined": quarantined, "held_until": held_until, "memory": memory}
            self._write(msgspec.structs.replace(record, pid=None, **left))

    def _change(self, **fields: object) -> None:
        if self._record is not None:
            self._write(msgspec.structs.replace(self._record, **fields))

    def _write(self, record: WorkerRecord) -> None:
        self._record = record
        self._files.write(record)
