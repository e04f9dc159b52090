# SPDX-License-Identifier: MIT
"""The life of a worker between Hello and its end: takes orders, calls hooks, sends answers.

Invariants:
- one hook runs at a time, in the thread that also serves the ring;
- a hook that fails is answered by `Failed`, once; the worker then waits for orders. If serving
  failed, the guest's ring is given back before that is said;
- only the kernel says that the supervisor is dead, never a silent socket. Without a supervisor the
  worker serves on for `orphan_grace` seconds, then finishes what is in flight and ends;
- the worker looks at nothing that a guest wrote before the jail is closed (worker.jail). That
  happens at the end of the first `Init`. A jailed worker that would have to open something else
  says `Renew` and ends, so that a successor can do it;
- an answer that nobody heard is not lost: the worker remembers what it is doing and tells the
  supervisor that adopts it (`Present`). So no answer has to arrive, and none holds up the ring for
  long.

The socket reconnects by itself to the next process that binds its path, and the next beat
introduces the worker there. Beats that reach nobody are tried again soon.

This module opens nothing and knows no device type.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal

from shared import scheduling
from shared.commands import Command as Declared
from shared.errors import BackendBug, Blame, BlamedError, HostError
from shared.messages import (
    TEXT_MAX,
    Adopt,
    Attached,
    BackendChanged,
    Beat,
    Command,
    Connected,
    Disconnect,
    Disconnected,
    Failed,
    FrontendChanged,
    Init,
    Initialise,
    Initialised,
    Jailed,
    Message,
    Nodes,
    Present,
    Publish,
    Renew,
    SetLogLevel,
    Stop,
    ToWorker,
)
from shared.worker_spec import WorkerSpec
from worker.bus import Bus
from worker.commands import Commands
from worker.device import Device, RenewalError
from worker.jail.jail import Jail

UNASKED_DRAIN: Final = 10.0
"""Seconds to let go of a ring that cannot be served; beats are still due, as nobody asked."""

BEAT_RETRY: Final = 0.1
"""Seconds until a beat that nobody took is offered again. Not long, because a guest may wait for
orders that a new supervisor has for this worker."""


class Session:
    """Runs one device under the supervisor's orders."""

    def __init__(
        self,
        spec: WorkerSpec,
        device: Device,
        bus: Bus,
        jail: Jail | None = None,
        commands: Iterable[Declared] = (),
    ) -> None:
        self._spec = spec
        self._jail = jail
        self._device = device
        self._bus = bus
        self._commands = Commands(device, commands, bus)
        self._log = device.log
        self._stopping = False
        self._next_beat = time.monotonic() + spec.beat
        self._supervisor: int | None = None
        """Descriptor of the supervisor's process; None once it is dead."""
        self._alone_until = 0.0
        self._phase: Literal["idle", "ready", "serving"] = "idle"
        self._starting = True
        self._greeted = False
        self._nodes: Nodes = {}
        self._failure: tuple[str, Blame | None, str] = ("", None, "")
        """The fields of `Failed`; the text is empty while all is well."""
        self._published: Nodes = {}

    @property
    def _serving(self) -> bool:
        return self._phase == "serving"

    def run(self) -> None:
        """Obey until `Stop` comes, or until the supervisor is gone and no other takes over."""
        self._supervisor = watch_process(self._spec.supervisor_pid)
        if self._supervisor is None:
            # Nobody knows of this process yet, so nobody will look for it.
            self._log.warning("supervisor: process %d: gone already", self._spec.supervisor_pid)
            return
        try:
            while not self._stopping:
                self._beat_if_due()
                # After the beat: sending consumes the edge of the socket's descriptor.
                self._obey_all()
                if not self._stopping:
                    watched = [] if self._supervisor is None else [self._supervisor]
                    self._serve([self._bus.fileno, *watched])
                if self._abandoned():
                    self._log.warning("supervisor: gone; finishing what is in flight")
                    break
        finally:
            self._watch(None)
            if self._serving:
                self._phase = "idle"
                self._device.disconnect()

    def publish(self, nodes: Nodes, rewrite_state: bool) -> None:
        """Have nodes of the backend directory written; keep them for a later supervisor."""
        self._published |= nodes
        self._say(Publish, nodes=nodes, rewrite_state=rewrite_state)

    def _abandoned(self) -> bool:
        """Whether there has been no supervisor for too long."""
        if self._supervisor is not None and readable(self._supervisor):
            self._watch(None)
            grace = self._spec.orphan_grace
            self._alone_until = time.monotonic() + grace
            if grace:
                self._log.warning("supervisor: gone; serving on for up to %g s", grace)
        return self._supervisor is None and time.monotonic() >= self._alone_until

    def _watch(self, supervisor: int | None) -> None:
        if self._supervisor is not None:
            os.close(self._supervisor)
        self._supervisor = supervisor

    def _serve(self, wake_fds: list[int]) -> None:
        timeout = max(0.0, self._next_beat - time.monotonic())
        if not self._serving:
            _wait(wake_fds, timeout)
            return
        try:
            self._device.run(wake_fds, timeout)
        except BlamedError as error:
            self._phase = "idle"
            self._give_back()
            self._failed("serve", error)

    def _beat_if_due(self) -> None:
        now = time.monotonic()
        if now >= self._next_beat:
            # Another beat follows a lost one; waiting for this one would hold up the ring.
            taken = self._bus.offer(Beat, counters=self._device.counters())
            self._next_beat = now + (self._spec.beat if taken else min(BEAT_RETRY, self._spec.beat))
            self._commands.tell()

    def _obey_all(self) -> None:
        while not self._stopping and (message := self._bus.receive()) is not None:
            self._log.debug("order: %s", type(message).__name__)
            self._obey(message)

    def _obey(self, message: ToWorker) -> None:
        device = self._device
        match message:
            case Init():
                self._hook("init", lambda: self._init(message))
            case Initialise():
                self._hook("initialise", lambda: self._initialise(message))
            case Connected():
                self._greeted = True
                self._hook("connected", device.connected)
            case Disconnect():
                self._hook("disconnect", self._disconnect)
            case Stop():
                self._hook("disconnect", self._stop)
            case BackendChanged(node=node, value=value):
                self._hook("serve", lambda: device.backend_changed(node, value))
            case FrontendChanged(node=node, untrusted_value=untrusted):
                if self._confined:
                    self._hook("serve", lambda: device.frontend_changed(node, untrusted))
            case SetLogLevel(level=level):
                self._log.set_level(level)
            case Command():
                self._commands.obey(message, ready=self._confined and self._phase != "idle")
            case Adopt(supervisor_pid=pid):
                self._adopted(pid)

    def _hook(self, stage: str, hook: Callable[[], None]) -> None:
        try:
            hook()
        except BlamedError as error:
            self._failed(stage, error)

    @property
    def _confined(self) -> bool:
        """Whether the worker may look at what a guest wrote."""
        return self._jail is None or self._jail.entered

    def _init(self, message: Init) -> None:
        self._phase, self._greeted = "idle", False
        try:
            self._nodes = self._device.init(message.backend)
        except RenewalError as error:
            self._log.info("init: %s; a successor opens it", error)
            self._say(Renew)
            self._stopping = True
            return
        if self._starting:
            self._end_start()
        self._phase = "ready"
        self._say(Initialised, nodes=self._nodes)

    def _end_start(self) -> None:
        """Everything is open now, and from now on a guest may wait for this process."""
        self._starting = False
        if trouble := scheduling.shorten_slice():
            self._log.debug("scheduler: %s; the usual slice stays", trouble)
        if trouble := scheduling.roam():
            self._log.error("scheduler: %s; kept to one CPU", trouble)
        if self._jail is not None:
            self._enter_jail(self._jail)

    def _enter_jail(self, jail: Jail) -> None:
        try:
            jail.enter()
        except BlamedError as error:
            # Half a jail is no jail: this process must not go on.
            self._failed("alloc", error)
            sys.exit(error.exit_code)
        self._device.jailed = True
        self._say(Jailed, **jail.told())

    def _initialise(self, message: Initialise) -> None:
        if self._serving:
            raise BackendBug(f"initialise: {self._device.device}: serving already")
        if not self._confined:
            raise BackendBug(f"initialise: {self._device.device}: not jailed yet")
        self._phase = "idle"
        self._nodes = self._device.initialise(
            message.backend, message.frontend, resume=message.resume
        )
        self._phase = "serving"
        self._say(Attached, nodes=self._nodes)

    def _disconnect(self) -> None:
        self._phase = "idle"
        self._published.clear()
        self._device.disconnect()
        self._say(Disconnected)

    def _stop(self) -> None:
        self._stopping = True
        self._phase = "idle"
        self._device.disconnect()

    def _adopted(self, supervisor_pid: int) -> None:
        """A new supervisor speaks; if it has died since, this worker still has none."""
        supervisor = watch_process(supervisor_pid)
        if supervisor is None:
            return
        self._watch(supervisor)
        self._log.info("supervisor: process %d takes over", supervisor_pid)
        self._bus.count_anew()
        self._commands.forget()
        stage, blame, text = self._failure
        self._say(
            Present,
            phase=self._phase,
            greeted=self._greeted,
            nodes=self._nodes,
            stage=stage,
            blame=blame,
            text=text,
        )
        if self._jail is not None and self._jail.entered:
            self._say(Jailed, **self._jail.told())
        if self._published:
            self._say(Publish, nodes=self._published, rewrite_state=True)

    def _give_back(self) -> None:
        self._device.drain = min(self._device.drain, UNASKED_DRAIN)
        try:
            self._device.disconnect()
        except BlamedError as error:
            self._log.log(error.log_level, "disconnect after a fault: %s", error)

    def _failed(self, stage: str, error: BlamedError) -> None:
        # The supervisor logs it too, and limits what a guest can cause.
        level = logging.DEBUG if error.blame is Blame.GUEST else error.log_level
        self._log.guest(level, "%s: %s", stage, error)
        self._failure = stage, error.blame, str(error)[:TEXT_MAX]
        self._say(Failed, stage=stage, blame=error.blame, text=str(error)[:TEXT_MAX])

    def _say(self, kind: type[Message], **fields: Any) -> None:
        """Send an answer that `Present` would repeat."""
        if self._supervisor is None:
            return
        try:
            self._bus.send(kind, **fields)
        except HostError as error:
            # The supervisor lives but does not listen: it is stopped, or replaces itself.
            self._log.warning("%s: %s", kind.__name__, error)


def watch_process(pid: int) -> int | None:
    """A descriptor that is readable once the process is dead; None if it is already dead."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def readable(fd: int) -> bool:
    """Whether a descriptor is readable now."""
    return _wait([fd], 0)


def _wait(fds: list[int], timeout: float) -> bool:
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    return bool(poller.poll(timeout * 1000))
