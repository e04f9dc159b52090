# SPDX-License-Identifier: MIT
"""What of one device's worker a successor of this supervisor must know, kept up to date on disk."""

from __future__ import annotations

import msgspec

from shared.worker_spec import WorkerSpec
from supervisor.policy.restart import Memory
from supervisor.workers.records import WorkerRecord, digest, start_time
from supervisor.workers.surroundings import Files


class WorkerFile:
    """The record of one device (`supervisor.workers.records`), None while there is nothing to remember."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._record: WorkerRecord | None = None
        self._dead = False
        """Its worker is: what the record holds is remembered, and nothing more."""

    @property
    def ring(self) -> str:
        """`ring_identity` of what the worker was last connected with; "" if it was not."""
        return "" if self._record is None else self._record.ring

    def found(self, record: WorkerRecord) -> None:
        """Go on with what an earlier supervisor wrote."""
        self._record, self._dead = record, record.pid is None

    def begin(self, spec: WorkerSpec, frontend_path: str, memory: Memory) -> None:
        """A worker is asked for: written before it can exist."""
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
        """Failures were forgotten; a successor is not to count them, or quarantine for them."""
        if self._record is None:
            return
        if self._dead:
            self._files.remove(self._record.device)
            self._record = None
        else:
            self._change(memory=memory)

    def over(self, *, quarantined: bool, memory: Memory, held_until: float) -> None:
        """It is dead: only failures, and what they led to, are worth remembering.

        `held_until` is when the next may start (CLOCK_MONOTONIC, seconds), 0 if that is not known.
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
