# SPDX-License-Identifier: MIT
"""Starts worker processes and says when they are dead.

Invariants:

- Never two processes for one device: it is a bug of ours, and refused, to ask for a second one
  while the first is not known dead. Before anything is started the lock of the device must be
  free (`supervisor.workers.locks`).
- Dead means: the pidfd says that no thread is left, and the fork server has reaped the process.
  Only then is `worker_exited` called, exactly once for each `start` or `adopt`. An adopted process
  was another supervisor's: its pidfd alone says that it is dead, and nobody learns its exit status.
- At most `parallel` workers are between fork and Hello; the others wait in the order they came.
- A fork server that does not answer in time is killed and replaced; its workers do not need it any
  more.
- Signals go through the pidfd, so they cannot reach a process that inherited the number.

Does not decide anything about restarts and knows nothing of messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from shared.device_id import DeviceId
from shared.errors import BackendBug, HostError
from shared.worker_spec import WorkerSpec
from supervisor.timer import Timer
from supervisor.workers.ends import KILL_PATIENCE
from supervisor.workers.forking import ForkServer, ForkWatch, Launch
from supervisor.workers.locks import Locks, LockWait

_log = logging.getLogger("xenbackd.spawner")

ENTRY_POINT: Final = "worker.main:run"
PRELOAD: Final = ("worker.preload",)

FORK_PATIENCE: Final = 120.0
"""Seconds the fork server has for an answer, including its preloading on a busy machine."""


class ProcessOwner(Protocol):
    """Who hears of a worker's process: its link."""

    def worker_forked(self, pid: int) -> None:
        """The process exists; its deadline for Hello runs from now."""

    def worker_exited(self, status: int | None) -> None:
        """The process is dead and reaped; exit code, minus signal, or None for unknown."""

    def worker_not_started(self, error: HostError) -> None:
        """There never was a process."""


class _Worker:
    __slots__ = ("device", "forked", "launch", "lock", "overdue", "owner", "pidfd", "wanted_dead")

    def __init__(self, device: DeviceId, owner: ProcessOwner, lock: LockWait) -> None:
        self.device = device
        self.owner = owner
        self.lock = lock
        self.launch: Launch | None = None
        self.overdue = Timer()
        """Until the fork server has told its pid."""
        self.pidfd: int | None = None
        self.forked = False
        self.wanted_dead = False


class Spawner:
    """The workers of the supervisor, by device."""

    def __init__(
        self,
        *,
        parallel: int,
        entry_point: str = ENTRY_POINT,
        preload: Sequence[str] = PRELOAD,
        device_types: Sequence[str] = (),
        locks: Locks,
        directory: Path,
    ) -> None:
        """`directory` is made for the fork server's socket."""
        self.parallel = parallel
        self.fork_patience = FORK_PATIENCE
        self._entry_point = entry_point
        self._locks = locks
        self._server = ForkServer(preload, directory, device_types)
        self._watch = ForkWatch(self._server)
        self._workers: dict[DeviceId, _Worker] = {}
        self._queue: OrderedDict[DeviceId, tuple[_Worker, WorkerSpec]] = OrderedDict()
        self._starting: set[DeviceId] = set()
        self._idle: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        return len(self._workers)

    def pids_pending(self) -> bool:
        """Whether the fork server was asked for a process whose pid is not known yet."""
        return any(
            device in self._workers and not self._workers[device].forked
            for device in self._starting
        )

    def open(self) -> None:
        """Start the fork server so that it preloads while the supervisor does other things.

        Raises:
            HostError: it cannot be started.
        """
        self._watch.open()

    async def close(self) -> None:
        """Kill the workers that are left, wait until they are dead, end the fork server.

        A worker in uninterruptible sleep is left behind: its lock and its file keep the next
        supervisor from starting another one beside it.
        """
        for device in list(self._workers):
            self.kill(device)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILL_PATIENCE):
                await self.wait_empty()
        for worker in self._workers.values():
            _log.error("worker: %s: does not die of SIGKILL; left behind", worker.device)
        self._watch.close()
        self._server.close(wait=not self._workers)

    def helpers(self) -> list[int]:
        """Children of this process that live as long as its workers."""
        return self._server.processes()

    async def wait_empty(self) -> None:
        """Return when no worker is left."""
        if self._workers:
            future = asyncio.get_running_loop().create_future()
            self._idle.append(future)
            await future

    def start(self, spec: WorkerSpec, owner: ProcessOwner) -> None:
        """Start the next generation of a device, at once or when a slot is free.

        Raises:
            BackendBug: the device has a process, or one that is not known dead.
        """
        device = spec.device
        if device in self._workers:
            raise BackendBug(f"start of worker: {device}: the last one is not known dead")
        worker = self._new(device, owner)

        def taken(error: HostError | None) -> None:
            if error is not None:
                self._never_started(worker, error)
                return
            self._queue[device] = (worker, spec)
            self._pump()

        worker.lock.take(taken)

    def adopt(self, device: DeviceId, pidfd: int, owner: ProcessOwner) -> None:
        """Take over a process of an earlier supervisor; the descriptor is the spawner's now.

        Raises:
            BackendBug: the device has a process already.
        """
        if device in self._workers:
            raise BackendBug(f"adoption of worker: {device}: it has one already")
        worker = self._new(device, owner)
        worker.forked, worker.pidfd = True, pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._died, worker)

    def _new(self, device: DeviceId, owner: ProcessOwner) -> _Worker:
        worker = self._workers[device] = _Worker(device, owner, LockWait(device, self._locks))
        return worker

    def said_hello(self, device: DeviceId) -> None:
        """The worker is up: its slot is free for the next one."""
        self._starting.discard(device)
        self._pump()

    def abort(self, device: DeviceId) -> None:
        """SIGABRT, at which a worker writes where it stands; one that is not forked is killed."""
        worker = self._workers.get(device)
        if worker is None or worker.pidfd is None:
            self.kill(device)
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(worker.pidfd, signal.SIGABRT)

    def kill(self, device: DeviceId) -> None:
        """SIGKILL; `worker_exited` follows. A device without a worker is left alone."""
        worker = self._workers.get(device)
        if worker is None:
            return
        if self._queue.pop(device, None) is not None or worker.lock.waiting:
            worker.lock.cancel()
            self._finish(worker, 0)
            return
        worker.wanted_dead = True
        if worker.pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(worker.pidfd, signal.SIGKILL)

    # --- start

    def _pump(self) -> None:
        while self._queue and len(self._starting) < self.parallel:
            device, (worker, spec) = self._queue.popitem(last=False)
            self._starting.add(device)
            assert worker.lock.lock is not None
            try:
                worker.launch = Launch(
                    self._server, self._entry_point, spec.encode(), str(device), [worker.lock.lock]
                )
            except HostError as error:
                self._never_started(worker, error)
                continue
            self._watch.look()
            loop = asyncio.get_running_loop()
            loop.add_reader(worker.launch.sentinel, self._forked, worker)
            worker.overdue.set(self.fork_patience, self._watch.hangs)

    def _forked(self, worker: _Worker) -> None:
        assert worker.launch is not None
        loop = asyncio.get_running_loop()
        loop.remove_reader(worker.launch.sentinel)
        worker.overdue.cancel()
        try:
            pid = worker.launch.read_pid()
        except HostError as error:
            self._never_started(worker, error)
            return
        worker.forked = True
        worker.lock.release()
        try:
            worker.pidfd = os.pidfd_open(pid)
        except OSError:
            # Dead and reaped already: its status is in the pipe.
            loop.add_reader(worker.launch.sentinel, self._reaped, worker)
        else:
            loop.add_reader(worker.pidfd, self._died, worker)
        worker.owner.worker_forked(pid)
        if worker.wanted_dead:
            self.kill(worker.device)

    def _never_started(self, worker: _Worker, error: HostError) -> None:
        def tell() -> None:
            self._drop(worker)
            worker.owner.worker_not_started(error)

        # Not from within the caller's own call of `start`.
        self._starting.discard(worker.device)
        asyncio.get_running_loop().call_soon(tell)

    # --- end

    def _died(self, worker: _Worker) -> None:
        """No thread of the process is left; wait for the fork server to reap it."""
        assert worker.pidfd is not None
        loop = asyncio.get_running_loop()
        loop.remove_reader(worker.pidfd)
        if worker.launch is None:
            self._finish(worker, None)
            return
        loop.add_reader(worker.launch.sentinel, self._reaped, worker)

    def _reaped(self, worker: _Worker) -> None:
        assert worker.launch is not None
        asyncio.get_running_loop().remove_reader(worker.launch.sentinel)
        status = worker.launch.read_status()
        self._finish(worker, status)

    def _finish(self, worker: _Worker, status: int | None) -> None:
        def tell() -> None:
            self._drop(worker)
            worker.owner.worker_exited(status)

        asyncio.get_running_loop().call_soon(tell)

    def _drop(self, worker: _Worker) -> None:
        device = worker.device
        worker.overdue.cancel()
        worker.lock.release()
        if worker.launch is not None:
            worker.launch.close()
        if worker.pidfd is not None:
            os.close(worker.pidfd)
            worker.pidfd = None
        del self._workers[device]
        self._starting.discard(device)
        if not self._workers:
            for future in self._idle:
                if not future.done():
                    future.set_result(None)
            self._idle.clear()
        self._pump()
