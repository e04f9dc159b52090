# SPDX-License-Identifier: MIT
"""One device's worker as its device sees it: start, orders, answers, deadlines, end.

Turns what the process does and says into events of the life cycle. Every order that a worker has
to answer has a deadline. A worker that misses one is killed, and that counts as a failure. So does
an end that nobody asked for, even with exit code 0.

A worker of an earlier supervisor is adopted: nothing is asked of it before it has come back by
itself and said what it is doing, and one that stays silent is killed. What the next supervisor must
know of the worker is written down (`supervisor.workers.records`) before it can be needed.

`supervisor.workers.words` checks what the worker may say. Here a word stops a deadline or ends the
worker, and is passed on to the device, once.
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
from supervisor.policy.exits import blame_of, describe, remark
from supervisor.policy.restart import KIND_OF_BLAME, ExitKind, RestartPolicy
from supervisor.timer import Timer
from supervisor.workers.commands import UNANSWERED_MAX, Commands
from supervisor.workers.ends import Ending, kind_of
from supervisor.workers.health import Health
from supervisor.workers.lease import Lease, WorkerFile
from supervisor.workers.records import Orphan, digest
from supervisor.workers.succession import Succession
from supervisor.workers.surroundings import Surroundings
from supervisor.workers.words import (
    Answer,
    Failure,
    LinkOwner,
    NodeWrite,
    Outcome,
    Renewal,
    Word,
    Words,
    not_asked_for,
)

JAIL_RETRY: Final = 5.0
"""Seconds until the next try to start a worker for which no user id or control group was left."""


class WorkerLink:
    """The worker of one device, and its successors."""

    def __init__(
        self,
        device: DeviceId,
        around: Surroundings,
        type_config: TypeConfig,
        handler: DeviceType,
        owner: LinkOwner,
        log: DeviceLogger,
    ) -> None:
        self._device = device
        self._around = around
        self._owner = owner
        self._log = log
        self.type_config = type_config
        self.file = WorkerFile(around.records)
        policy = RestartPolicy(type_config.restart or around.config.restart)
        self.succession = Succession(device.domid, policy, self.file, around, self._go_on)
        self.health = Health(self._tell_operator, handler.counters)
        self.ending = Ending(
            lambda: around.processes.abort(device),
            lambda: around.processes.kill(device),
            self._does_not_die,
        )
        self._lease = Lease(device, around, self)
        self._words = Words(device, handler)
        self.commands = Commands(device, self._words, self.tell)
        self._deadline = Timer()
        self._failure: ExitKind | None = None
        """What its end will count as; None: that depends on the exit status."""
        self._asked_to_stop = False
        self._awaited = False
        """It was an earlier supervisor's and has not come back yet."""
        self.log_level: str = type_config.log_level or around.config.log.level
        """Level that the next worker starts with."""
        self.generation = 0
        self.present = False
        """A process exists, or one has been asked for."""
        self.jail: m.Jailed | None = None
        """What confines it, as it says."""

    @property
    def pid(self) -> int | None:
        """Process of the worker, None while there is none."""
        return self._lease.pid

    @property
    def timeouts(self) -> DeviceTimeouts:
        """Those of its type at the moment."""
        return self.type_config.timeouts or self._around.config.timeouts

    @property
    def drain(self) -> float:
        """Seconds that it has for an orderly end."""
        return drain_of(self.timeouts, resolve(self.type_config.handler).drain)

    # --- orders

    def start(self, frontend_path: str) -> None:
        """Start the next generation, or wait for a turn of the restart budget."""
        wait = self.succession.turn()
        if wait > 0:
            text = f"too many restarts: next start of a worker in {wait:.1f} s"
            self._tell_operator("budget", text)
            self.succession.wait(wait)
            self._owner.feed(t.WorkerExited(t.Hold.BUDGET))
            return
        self.generation += 1
        self._begin()
        try:
            spec = self._lease.spec(
                self.generation,
                self.type_config,
                beat=self.timeouts.beat,
                drain=self.drain,
                log_level=self.log_level,
            )
        except HostError as error:
            self._no_jail(error)
            return
        self.file.begin(spec, frontend_path, self.succession.policy.memory)
        self._around.processes.start(spec, self)

    def _begin(self) -> None:
        """Nothing of the last worker is left."""
        self._failure = None
        self._asked_to_stop = self._awaited = False
        self.ending.begin()
        self.health.begin()
        self._words.forget()
        self.jail = None
        self.present = True

    def adopt(self, orphan: Orphan) -> None:
        """Go on with what an earlier supervisor left: a worker, or only what it remembered."""
        record = orphan.record
        self.generation = record.generation
        self.succession.recall(record)
        if orphan.pidfd is None:
            if record.pid is not None:
                # How it ended is not known. What follows an end does not depend on who heard of it.
                self._log.warning("worker: process %d died without a supervisor", record.pid)
                self._over(ExitKind.CRASH)
            elif record.held_until:
                self.succession.resume(record.held_until)
            return
        # Another handler would be another device behind a ring that is in use.
        self.type_config = msgspec.structs.replace(self.type_config, handler=record.handler)
        if digest(self.type_config.options) != record.options:
            self._log.info("worker: adopted with the options it was started with")
        assert record.pid is not None
        self._words.inherit(UNANSWERED_MAX)
        self.present = self._awaited = True
        # A worker beats to any supervisor: one that is silent for longer hangs like any other.
        seconds = self.timeouts.beat_dead + 2 * self.timeouts.beat
        self._arm(seconds, f"did not come back to the new supervisor within {seconds:g} s")
        self._around.processes.adopt(self._device, orphan.pidfd, self)
        self._lease.adopt(self.generation, record.pid)

    def ask(self, kind: type[m.Message], **fields: Any) -> None:
        """Send an order that is answered within `timeouts.hook`, or `drain` to let go of a ring."""
        self.health.watched = False
        self._words.asked(kind)
        if self.tell(kind, **fields):
            seconds = self.drain if kind is m.Disconnect else self.timeouts.hook
            self._arm(seconds, f"no answer to {kind.__name__} within {seconds:g} s")
        else:
            self.hung("does not take messages")

    def tell(self, kind: Callable[..., m.Message], **fields: Any) -> bool:
        """Send a message without an answer; False if the worker's queue is full or it is gone."""
        messages = self._around.messages
        seq = messages.next_seq(self._device)
        message = kind(device=self._device, generation=self.generation, seq=seq, **fields)
        return messages.send(message)

    def stop(self, *, kill: bool = False) -> None:
        """End the worker: in order within `timeouts.drain`, or at once."""
        if not self.present or self.ending.begun:
            return
        self._asked_to_stop = True
        self.health.watched = False
        if self._awaited and not kill:
            return  # it is told when it comes back; the deadline for that runs
        if kill or self.pid is None or not self.tell(m.Stop):
            self._kill()
            return
        self._arm(self.drain, f"not gone {self.drain:g} s after it was told to stop")

    def close(self) -> None:
        """The device is over: stop all timers."""
        self.succession.close()
        self.ending.over()
        self.commands.over()
        self._deadline.cancel()

    # --- failures

    def failed(self, failure: Failure) -> None:
        """Something failed: the worker said so, or what it needs cannot be read for it."""
        if self._failure is None:
            self._failure = KIND_OF_BLAME[failure.blame]
        if not self._asked_to_stop:  # it still has to end in time
            self._deadline.cancel()
        if not self._pass_on(failure):
            self._kill()

    def hung(self, cause: str) -> None:
        """A deadline was missed: have it write where it stands, then kill it."""
        if not self.present or self.ending.begun:
            return
        self._failure = self._failure or ExitKind.HANG
        self._give_up()
        self.ending.abort(self.timeouts.abort)
        self._pass_on(Failure(Blame.US, f"worker: {self._device}: {cause}", "hang"))

    def _pass_on(self, word: Word) -> bool:
        """Hand a word to the device; False if it cannot be true now."""
        try:
            self._owner.heard(word)
        except t.IllegalEventError as error:
            self._log.error("worker: process %s: %s", self.pid, error)
            return False
        return True

    # --- what the worker says (BusListener)

    def worker_said(self, message: m.FromWorker) -> None:
        """Take one message; who sent it is known."""
        if self.ending.begun:
            return  # what it had sent by then is no news, and could be much
        now = self._around.clock()
        self.health.heard(now)
        try:
            word = self._words.check(message)
        except BackendBug as error:
            self.worker_broke_protocol(error)
            return
        match word:
            case Answer():
                self._answered(word)
            case Failure():
                self.failed(word)
            case Renewal():
                self._renewed()
            case m.Beat(counters=counters):
                self.health.beat(counters, now, self.timeouts)
                self._pass_on(word)
            case m.Jailed():
                self.jail = word
            case NodeWrite():
                self._pass_on(word)
            case Outcome():
                self.commands.answered(word)

    def worker_came_back(self) -> None:
        """An adopted worker is connected: it is told who we are, or that it is to end."""
        self._awaited = False
        if self._asked_to_stop:
            self.stop()
        elif not self.ending.begun:
            self.ask(m.Adopt, supervisor_pid=self._around.supervisor_pid)

    def worker_broke_protocol(self, error: BackendBug) -> None:
        """It is not to be trusted any more: end it."""
        self._failure = ExitKind.CRASH
        self._kill()
        self._pass_on(Failure(Blame.US, str(error), "protocol"))

    def _answered(self, answer: Answer) -> None:
        """It says that it did what it was asked to; it is ended if it was not asked."""
        event = answer.event
        if isinstance(event, t.WorkerHello):
            self._around.processes.said_hello(self._device)
        elif isinstance(event, t.WorkerPresent):
            phase = event.phase.value
            self._log.info("worker: process %s adopted, %s", self.pid, phase)
            text = f"process {self.pid}, {phase}"
            self._around.events.add("adopted", str(self._device), text)
        if not self._asked_to_stop:
            self._deadline.cancel()
            self.health.watched = True
        if not self._pass_on(answer):
            self.worker_broke_protocol(not_asked_for(self._device, type(event).__name__))
        elif isinstance(event, t.WorkerPresent):
            self.tell(m.SetLogLevel, level=self.log_level)

    def _renewed(self) -> None:
        """It waits for its end, and that is no failure."""
        if not self._asked_to_stop:
            self._failure = ExitKind.RENEW
            self._kill()

    # --- what the process does (ProcessOwner)

    def worker_forked(self, pid: int) -> None:
        """Its messages are believed from now on; Hello is due."""
        self.file.forked(pid)
        self._lease.forked(pid)
        if self.ending.begun:
            return
        seconds = self.timeouts.hello
        self._arm(seconds, f"no Hello within {seconds:g} s")
        self._lease.expect(self.generation)

    def worker_exited(self, status: int | None) -> None:
        """It is dead and reaped."""
        # Its last words may have arrived without having been read.
        self._around.messages.drain()
        kind = self._failure or kind_of(
            status, asked_to_stop=self._asked_to_stop, by_kernel=self._lease.killed_by_kernel
        )
        if kind is not ExitKind.CLEAN and self._failure is None:
            text = f"worker: {self._device}: process {self.pid}: {describe(status)}{remark(kind)}"
            stage = "security" if kind is ExitKind.SECURITY else "exit"
            if kind is ExitKind.GUEST:
                # Whatever the policy says, what the frontend did wrong closes the device.
                self._pass_on(Failure(Blame.GUEST, text, stage))
            else:
                self._owner.report(blame_of(kind), text, stage=stage)
        self._log.debug("worker: process %s, %s: %s", self.pid, kind.value, describe(status))
        self._over(kind)

    def worker_not_started(self, error: HostError) -> None:
        """The fork server could not start it."""
        self._owner.report(Blame.HOST, str(error), stage="start")
        self._over(ExitKind.SPAWN)

    def _no_jail(self, error: HostError) -> None:
        """No worker failed: the start is tried again until there is room."""
        self.present = False
        self.generation -= 1
        self.succession.planned()  # nor does the next try count as a restart
        self._owner.report(Blame.HOST, str(error), stage="start")
        self.succession.wait(JAIL_RETRY)
        self._owner.feed(t.WorkerExited(t.Hold.BACKOFF))

    def _over(self, kind: ExitKind) -> None:
        self._lease.end()
        self._deadline.cancel()
        self.ending.over()
        self.commands.over()
        self.present = self._awaited = False
        self.health.over()
        hold, delay = self.succession.ended(kind)
        if hold is t.Hold.BACKOFF:
            self._log.info("worker: next start in %.1f s", delay)
        self._owner.feed(t.WorkerExited(hold))

    # --- helpers

    def _go_on(self) -> None:
        self._owner.feed(t.Released())

    def _arm(self, seconds: float, cause: str) -> None:
        self._deadline.set(seconds, self.hung, cause)

    def _give_up(self) -> None:
        self.health.watched = False
        self._deadline.cancel()

    def _kill(self) -> None:
        self._give_up()
        self.ending.kill()

    def _does_not_die(self) -> None:
        text = f"worker: {self._device}: process {self.pid}: does not die of SIGKILL"
        self._around.events.add("unkillable", str(self._device), text)
        self._owner.report(Blame.HOST, text, stage="kill")

    def _tell_operator(self, kind: str, text: str) -> None:
        """Something that is worth knowing and ends nothing."""
        self._log.warning("%s: %s", kind, text)
        self._around.events.add(kind, str(self._device), text)
