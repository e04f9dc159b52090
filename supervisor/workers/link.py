# SPDX-License-Identifier: MIT
"""One device's worker as its device sees it: start, orders, answers, deadlines, end.

Turns what the process and its messages do into events of the life cycle. Everything a worker has to
answer has a deadline; a worker that misses one is killed, and that counts as a failure. So does
an end nobody asked for, whatever the exit code.

A worker of an earlier supervisor is adopted: nothing is asked of it before it has come back by
itself and said what it is doing, and one that stays silent is killed. What a successor of this
supervisor must know of the worker is written down (`supervisor.workers.records`) before it can be needed.

What of its messages is believed is decided in `supervisor.workers.words`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from config.model import DeviceTimeouts, TypeConfig, drain_of
from shared import lifecycle_types as t
from shared import messages as m
from shared.device_id import DeviceId
from shared.device_types import DeviceType, resolve
from shared.errors import BackendBug, Blame, HostError
from shared.logs import DeviceLogger
from supervisor.policy.budget import Admission
from supervisor.policy.exits import blame_of, classify, describe, remark
from supervisor.policy.restart import KIND_OF_BLAME, ExitKind, RestartPolicy
from supervisor.timer import Timer
from supervisor.workers.death_watch import DeathWatch
from supervisor.workers.file import WorkerFile
from supervisor.workers.health import Health
from supervisor.workers.owner import LinkOwner
from supervisor.workers.records import Orphan, digest
from supervisor.workers.spec import make_spec
from supervisor.workers.surroundings import Services
from supervisor.workers.words import WorkerWords, not_asked_for

JAIL_RETRY: Final = 5.0
"""Seconds until a worker that there was no user id or control group for is tried again."""


class WorkerLink:
    """See the module. `words` are the worker's, `watched` says that its beats are due."""

    def __init__(
        self,
        device: DeviceId,
        services: Services,
        type_config: TypeConfig,
        handler: DeviceType,
        owner: LinkOwner,
        log: DeviceLogger,
    ) -> None:
        self._device = device
        self._services = services
        self._owner = owner
        self._log = log
        self.type_config = type_config
        self.policy = RestartPolicy(type_config.restart or services.config.restart)
        self.health = Health(self._tell, handler.counters)
        self._admission = Admission(services.budget, device.domid)
        self.log_level: str = type_config.log_level or services.config.log.level
        """Level the next worker starts with."""
        self.generation = 0
        self.pid: int | None = None
        self.present = False
        """A process exists, or one has been asked for."""
        self.watched = False
        """It has said Hello and no hook is under way."""
        self.last_seen = 0.0
        self.words = WorkerWords(device, services, handler, self, owner, log)
        self._failure: ExitKind | None = None
        self._asked_to_stop = False
        self.killed = False  # or about to be: SIGABRT comes first
        self._deadline, self._backoff = Timer(), Timer()
        self._grace = Timer()
        """Between SIGABRT and SIGKILL."""
        self.file = WorkerFile(services.records)
        self._adopting = False
        """It was an earlier supervisor's and has not said yet what it is doing."""
        self._came_back = False
        self.death = DeathWatch(self._does_not_die)
        self.failures = 0
        """Ends of workers that were none of an order, ever."""

    @property
    def timeouts(self) -> DeviceTimeouts:
        """Those of its type at the moment."""
        return self.type_config.timeouts or self._services.config.timeouts

    # --- orders

    def start(self) -> None:
        """Start the next generation, or wait for a turn of the restart budget."""
        self.cancel_backoff()
        wait = self._admission.wait(self._services.clock(), self._services.config.limits)
        if wait > 0:
            self._tell("budget", f"too many restarts: next start of a worker in {wait:.1f} s")
            self._wait(wait)
            self._owner.feed(t.WorkerExited(t.Hold.BUDGET))
            return
        self.generation += 1
        self._failure = None
        self._asked_to_stop = self.killed = self.watched = False
        self.health.forget()
        self.words.forget()
        self.present = True
        self._adopting = False
        services = self._services
        try:
            spec = make_spec(
                self._device,
                self.generation,
                services,
                self.type_config,
                self.timeouts,
                self.log_level,
            )
        except HostError as error:
            self._no_jail(error)
            return
        self.file.begin(spec, self._owner.frontend_path, self.policy.memory)
        services.processes.start(spec, self)

    def adopt(self, orphan: Orphan) -> None:
        """Go on with what an earlier supervisor left: its worker, or only what it remembered."""
        record = orphan.record
        self.file.found(record)
        self.generation = record.generation
        self.policy.recall(record.memory)
        # Its first successor is a restart like any other, and no free first start.
        self._admission.wait(self._services.clock(), self._services.config.limits)
        if orphan.pidfd is None:
            if record.pid is not None:
                # How it ended nobody knows; what follows an end does not depend on who heard of it.
                self._log.warning("worker: process %d died without a supervisor", record.pid)
                self._over(ExitKind.CRASH)
            elif record.held_until:
                pause = record.held_until - self._services.clock()
                self._wait(min(max(pause, 0.0), self.policy.longest_pause))
            return
        # Another handler would be another device behind a ring that is in use.
        self.type_config = msgspec.structs.replace(self.type_config, handler=record.handler)
        if digest(self.type_config.options) != record.options:
            self._log.info("worker: adopted with the options it was started with")
        assert record.pid is not None
        self.pid = record.pid
        self.present = self._adopting = True
        # It beats to whoever listens: one that is silent for longer hangs like any other.
        seconds = self.timeouts.beat_dead + 2 * self.timeouts.beat
        self._arm(seconds, f"did not come back to the new supervisor within {seconds:g} s")
        self._services.processes.adopt(self._device, orphan.pidfd, self)
        uid = self._services.jails.uid_of(self._device)
        self._services.messages.adopt(self._device, self.generation, record.pid, uid, self.words)

    def ask(self, kind: Callable[..., m.Message], **fields: Any) -> None:
        """Send an order that is answered within `timeouts.hook`, or `drain` to let go of a ring."""
        self.watched = False
        self.words.initialising = kind is m.Init
        if self._send(kind, **fields):
            seconds = self._drain if kind is m.Disconnect else self.timeouts.hook
            self._arm(seconds, f"no answer to {kind.__name__} within {seconds:g} s")

    def tell(self, kind: Callable[..., m.Message], **fields: Any) -> bool:
        """Send what needs no answer; False if the worker's queue is full or it is not there."""
        return self._services.messages.send(self._message(kind, **fields))

    def stop(self, *, kill: bool = False) -> None:
        """End the worker: in order within `timeouts.drain`, or at once."""
        if not self.present or self.killed:
            return
        self._asked_to_stop = True
        self.watched = False
        if self._adopting and not self._came_back and not kill:
            return  # told when it comes back; the deadline for that runs
        if kill or self.pid is None or not self.tell(m.Stop):
            self._kill()
            return
        self._arm(self._drain, f"not gone {self._drain:g} s after it was told to stop")

    def failed(self, blame: Blame, text: str, stage: str) -> None:
        """Something of this worker's failed, by its own word or because it cannot be served."""
        if self._failure is None:
            self._failure = KIND_OF_BLAME[blame]
        self._owner.report(blame, text, stage=stage)
        if not self._asked_to_stop:  # it still has to end in time
            self._deadline.cancel()
        if self._owner.worker_said_illegal(t.WorkerFailed(blame)):
            self._kill()

    def hung(self, cause: str) -> None:
        """A deadline was missed: have it write where it stands, then kill."""
        if not self.present or self.killed:
            return
        self._failure = self._failure or ExitKind.HANG
        self._given_up()
        self._services.processes.abort(self._device)
        self._grace.set(self.timeouts.abort, self._kill)
        self._owner.report(Blame.US, f"worker: {self._device}: {cause}", stage="hang")
        self._owner.worker_said_illegal(t.WorkerFailed(Blame.US))

    def cancel_backoff(self) -> None:
        """No successor is waited for any more."""
        self._backoff.cancel()

    @property
    def longest_replacement(self) -> float:
        """Seconds: the end of one worker, Hello of the next, its answers to two orders."""
        return self._drain + self.timeouts.hello + 2 * self.timeouts.hook

    def planned(self) -> None:
        """The next start is no restart by failure."""
        self._admission.waive(self._services.clock())

    def forgive(self) -> None:
        """The operator's word, or what was complained about has changed: failures are forgotten."""
        self.policy.reset()
        self.file.forgiven(self.policy.memory)
        self._admission.waive(self._services.clock())
        self.cancel_backoff()

    def close(self) -> None:
        """The device is over: no timer fires any more."""
        self._admission.withdraw(self._services.clock())
        self.cancel_backoff()
        self.death.over()
        self._deadline.cancel()
        self._grace.cancel()

    # --- the process (WorkerOwner)

    def worker_forked(self, pid: int) -> None:
        """Its messages are believed from now on; Hello is due."""
        self.pid = pid
        self.file.forked(pid)
        self._services.oom.watch(pid, self._services.jails.cgroup_of(self._device))
        if self.killed:
            return
        seconds = self.timeouts.hello
        self._arm(seconds, f"no Hello within {seconds:g} s")
        uid = self._services.jails.uid_of(self._device)
        self._services.messages.expect(self._device, self.generation, pid, uid, self.words)

    def worker_exited(self, status: int | None) -> None:
        """It is dead and reaped."""
        # Its last words may have arrived and not been read yet.
        self._services.messages.drain()
        kind = self._failure or self._kind_of(status)
        if kind is not ExitKind.CLEAN and self._failure is None:
            text = f"worker: {self._device}: process {self.pid}: {describe(status)}"
            text += remark(kind)
            stage = "security" if kind is ExitKind.SECURITY else "exit"
            self._owner.report(blame_of(kind), text, stage=stage)
            if kind is ExitKind.GUEST:
                # Whatever the policy says of it, what the frontend did wrong closes the device.
                self._owner.worker_said_illegal(t.WorkerFailed(Blame.GUEST))
        self._log.debug("worker: process %s, %s: %s", self.pid, kind.value, describe(status))
        self._over(kind)

    def _kind_of(self, status: int | None) -> ExitKind:
        """What an end means that nothing was said about before."""
        if self._asked_to_stop:
            return ExitKind.CLEAN
        kind = classify(status)
        if kind is ExitKind.CLEAN:
            return ExitKind.CRASH  # nobody asked it to end
        if kind is ExitKind.KILLED and self.pid is not None and self._services.oom.claim(self.pid):
            return ExitKind.OOM
        return kind

    def worker_not_started(self, error: HostError) -> None:
        """The fork server could not."""
        self._owner.report(Blame.HOST, str(error), stage="start")
        self._over(ExitKind.SPAWN)

    def _no_jail(self, error: HostError) -> None:
        """No failure of a worker's: it is tried again until there is room."""
        self.present = False
        self.generation -= 1
        self.planned()  # nor does the next try count as a restart
        self._owner.report(Blame.HOST, str(error), stage="start")
        self._wait(JAIL_RETRY)
        self._owner.feed(t.WorkerExited(t.Hold.BACKOFF))

    def _over(self, kind: ExitKind) -> None:
        self._services.messages.forget(self._device)
        self._services.jails.release(self._device)
        self._deadline.cancel()
        self._grace.cancel()
        self.death.over()
        if self.pid is not None:
            self._services.oom.forget(self.pid)
        self.pid = None
        self.present = self.watched = self._adopting = False
        self.health.forget()
        self.failures += kind not in (ExitKind.CLEAN, ExitKind.RENEW)
        now = self._services.clock()
        decision = self.policy.ended(kind, now)
        waits = decision.hold is t.Hold.BACKOFF
        self.file.over(
            quarantined=decision.hold is t.Hold.QUARANTINED,
            memory=self.policy.memory,
            held_until=now + decision.delay if waits else 0.0,
        )
        if waits:
            self._wait(decision.delay)
            self._log.info("worker: next start in %.1f s", decision.delay)
        self._owner.feed(t.WorkerExited(decision.hold))

    def _wait(self, seconds: float) -> None:
        self._backoff.set(seconds, self._owner.feed, t.Released())

    # --- what its words lead to (`supervisor.workers.words.Link`)

    def came_back(self) -> None:
        """An adopted worker is connected: it is told who we are, or that it is to end."""
        self._came_back = True
        if self._asked_to_stop:
            self.stop()
        elif not self.killed:
            self.ask(m.Adopt, supervisor_pid=self._services.supervisor_pid)

    def introduced(self) -> None:
        """It has said what it is doing."""
        self._adopting = False

    def answered(self, event: t.Event) -> None:
        """It says that it did what it was asked to; ended if it was not asked."""
        if not (self._asked_to_stop or self.killed):
            self._deadline.cancel()
            self.watched = True
        if self._owner.worker_said_illegal(event):
            self.distrusted(not_asked_for(self._device, type(event).__name__))

    def renewed(self) -> None:
        """It waits for its end, and that is no failure."""
        if not (self._asked_to_stop or self.killed):
            self._failure = ExitKind.RENEW
            self._kill()

    def distrusted(self, error: BackendBug) -> None:
        """Whatever it is, it is no worker of ours any more."""
        self._failure = ExitKind.CRASH
        self._kill()
        self._owner.report(Blame.US, str(error), stage="protocol")
        self._owner.worker_said_illegal(t.WorkerFailed(Blame.US))

    # --- helpers

    def _message(self, kind: Callable[..., m.Message], **fields: Any) -> m.Message:
        seq = self._services.messages.next_seq(self._device)
        return kind(device=self._device, generation=self.generation, seq=seq, **fields)

    def _send(self, kind: Callable[..., m.Message], **fields: Any) -> bool:
        sent = self.tell(kind, **fields)
        if not sent:
            self.hung("does not take messages")
        return sent

    @property
    def _drain(self) -> float:
        return drain_of(self.timeouts, resolve(self.type_config.handler).drain)

    def _tell(self, kind: str, text: str) -> None:
        """Something the operator may want to know, which ends nothing."""
        self._log.warning("%s: %s", kind, text)
        self._services.events.add(kind, str(self._device), text)

    def _given_up(self) -> None:
        self.killed = True
        self.watched = False
        self._deadline.cancel()

    def _kill(self) -> None:
        self._given_up()
        self._grace.cancel()
        self.death.killed()
        self._services.processes.kill(self._device)

    def _does_not_die(self) -> None:
        text = f"worker: {self._device}: process {self.pid}: does not die of SIGKILL"
        self._services.events.add("unkillable", str(self._device), text)
        self._owner.report(Blame.HOST, text, stage="kill")

    def _arm(self, seconds: float, cause: str) -> None:
        self._deadline.set(seconds, self.hung, cause)
