# SPDX-License-Identifier: MIT
"""Starts worker processes and says when they are dead.

Invariants:

- Never two processes for one device: asking for a second one while the first is not known dead is
  a bug of ours and refused. A process of an earlier supervisor that nobody knows of holds the
  device's lock (`supervisor.workers.records`): it is looked for and killed, and nothing is started before
  the lock is free.
- Dead means: the pidfd says that no thread is left, and the fork server has reaped the process.
  Only then does `exited` reach the owner, exactly once for each `start` or `adopt`. An adopted
  process was another supervisor's: its pidfd alone says so, and nobody learns its exit status.
- At most `parallel` workers are between fork and Hello; the others wait in the order they came.
- A fork server that does not answer in time is killed and replaced; workers need it no more.
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
from supervisor.workers.forking import ForkServer, Launch

_log = logging.getLogger("xenbackd.spawner")

ENTRY_POINT: Final = "worker.main:run"
PRELOAD: Final = ("worker.preload",)

SERVER_SHORT_LIFE: Final = 1.0
"""Seconds; a fork server that died sooner is started again only when a worker needs it."""


FORK_PATIENCE: Final = 120.0
"""Seconds the fork server has for an answer, its preloading on a busy machine included."""


LOCK_RETRY: Final = 0.1
"""Seconds between two looks at a lock that is held; a lock has no descriptor to wait for."""

LOCK_PATIENCE: Final = 20
"""Looks before its holder is killed. A worker that had just been forked when its supervisor died
ends by itself, and until it is forked the lock is on its way to it. If the kill does not help, the
next one comes after twice as many: finding a holder means reading every descriptor of the host."""


KILL_PATIENCE: Final = 10.0
"""Seconds until a process that was sent SIGKILL should be dead."""


class Locks(Protocol):
    """`supervisor.workers.records.Records`, as far as it locks."""

    def lock(self, device: DeviceId) -> int | None:
        """Take a device; None while a worker holds it."""

    def holders(self, device: DeviceId) -> list[int]:
        """Who holds it."""


class WorkerOwner(Protocol):
    """Who hears of a worker: the device."""

    def worker_forked(self, pid: int) -> None:
        """The process exists; its deadline for Hello runs from now."""

    def worker_exited(self, status: int | None) -> None:
        """The process is dead and reaped; exit code, minus signal, or None for unknown."""

    def worker_not_started(self, error: HostError) -> None:
        """There never was a process."""


class _Worker:
    __slots__ = (
        *("device", "forked", "kill_at", "launch", "lock", "looks", "overdue", "owner", "pidfd"),
        "wanted_dead",
    )

    def __init__(self, device: DeviceId, owner: WorkerOwner) -> None:
        self.device = device
        self.owner = owner
        self.lock: int | None = None
        """The device's lock until the child has its copy."""
        self.looks = 0
        self.kill_at = LOCK_PATIENCE
        """Number of the look at which the lock's holder is killed next."""
        self.launch: Launch | None = None
        self.overdue = Timer()
        """Until the fork server has said its pid."""
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
        self._server_pidfd: int | None = None
        self._server_since = 0.0
        self._workers: dict[DeviceId, _Worker] = {}
        self._queue: OrderedDict[DeviceId, tuple[_Worker, WorkerSpec]] = OrderedDict()
        self._locked: dict[DeviceId, asyncio.TimerHandle] = {}
        """Those that wait for a lock."""
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
        self._server.ensure_running()
        self._watch_server()

    async def close(self) -> None:
        """Kill what is left, wait until it is dead, end the fork server.

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
        self._unwatch_server()
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

    def start(self, spec: WorkerSpec, owner: WorkerOwner) -> None:
        """Start the next generation of a device, at once or when a slot is free.

        Raises:
            BackendBug: the device has a process, or one that is not known dead.
        """
        device = spec.device
        if device in self._workers:
            raise BackendBug(f"start of worker: {device}: the last one is not known dead")
        worker = self._workers[device] = _Worker(device, owner)
        self._enqueue(worker, spec)

    def adopt(self, device: DeviceId, pidfd: int, owner: WorkerOwner) -> None:
        """Take over a process of an earlier supervisor; the descriptor is the spawner's now.

        Raises:
            BackendBug: the device has a process already.
        """
        if device in self._workers:
            raise BackendBug(f"adoption of worker: {device}: it has one already")
        worker = self._workers[device] = _Worker(device, owner)
        worker.forked, worker.pidfd = True, pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._died, worker)

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
        if self._queue.pop(device, None) is not None or device in self._locked:
            if device in self._locked:
                self._locked.pop(device).cancel()
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
            assert worker.lock is not None
            try:
                worker.launch = Launch(
                    self._server, self._entry_point, spec.encode(), str(device), [worker.lock]
                )
            except HostError as error:
                self._never_started(worker, error)
                continue
            self._watch_server()
            loop = asyncio.get_running_loop()
            loop.add_reader(worker.launch.sentinel, self._forked, worker)
            worker.overdue.set(self.fork_patience, self._server_hangs)

    def _enqueue(self, worker: _Worker, spec: WorkerSpec) -> None:
        """Wait for a slot as soon as the device's lock is ours."""
        device = worker.device
        self._locked.pop(device, None)
        try:
            worker.lock = self._locks.lock(device)
        except HostError as error:
            self._never_started(worker, error)
            return
        if worker.lock is not None:
            self._queue[device] = (worker, spec)
            self._pump()
            return
        worker.looks += 1
        if worker.looks >= worker.kill_at:
            worker.kill_at *= 2
            self._kill_holders(device)
        loop = asyncio.get_running_loop()
        self._locked[device] = loop.call_later(LOCK_RETRY, self._enqueue, worker, spec)

    def _kill_holders(self, device: DeviceId) -> None:
        for pid in self._locks.holders(device):
            _log.error("worker: %s: process %d serves it and nobody knows of it: kill", device, pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

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
        _release(worker)
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
        _release(worker)
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

    # --- the fork server itself

    def _watch_server(self) -> None:
        if self._server_pidfd is None and self._server.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                self._server_pidfd = os.pidfd_open(self._server.pid)
                loop = asyncio.get_running_loop()
                loop.add_reader(self._server_pidfd, self._server_died)
                self._server_since = loop.time()

    def _unwatch_server(self) -> None:
        if self._server_pidfd is not None:
            asyncio.get_running_loop().remove_reader(self._server_pidfd)
            os.close(self._server_pidfd)
            self._server_pidfd = None

    def _server_hangs(self) -> None:
        """Killed, it is dealt with as one that died: those it owes a process hear of it."""
        _log.error("fork server: process %s: does not answer: kill", self._server.pid)
        if self._server_pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._server_pidfd, signal.SIGKILL)

    def _server_died(self) -> None:
        _log.error("fork server: process %s: died", self._server.pid)
        self._unwatch_server()
        if asyncio.get_running_loop().time() - self._server_since < SERVER_SHORT_LIFE:
            return  # the next worker starts it; devices back off, so this does not spin
        # Its workers live on: they are forks of it and need it no more. A new one is started
        # now, so that the next worker need not wait for the preloading.
        try:
            self.open()
        except HostError as error:
            _log.error("%s", error)


def _release(worker: _Worker) -> None:
    """From here on the worker alone holds its device's lock."""
    if worker.lock is not None:
        os.close(worker.lock)
        worker.lock = None
