# SPDX-License-Identifier: MIT
"""The life of a worker between Hello and its end: orders in, hooks called, answers out.

Invariants:
- one hook at a time, in the thread that also serves the ring;
- a hook that fails is answered by `Failed`, once; the worker then waits for orders. When serving
  failed, the guest's ring has been given back before that is said;
- without a supervisor there is nobody to obey: the worker finishes what is in flight and ends.

Does not open anything and knows no device type.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Callable
from typing import Final

from shared.errors import BackendBug, Blame, BlamedError
from shared.messages import (
    TEXT_MAX,
    Attached,
    BackendChanged,
    Beat,
    Connected,
    Disconnect,
    Disconnected,
    Failed,
    FrontendChanged,
    Init,
    Initialise,
    Initialised,
    SetLogLevel,
    Stop,
    ToWorker,
)
from shared.worker_spec import WorkerSpec
from worker.bus import Bus
from worker.device import Device

UNASKED_DRAIN: Final = 10.0
"""Seconds to let go of a ring that cannot be served: nobody asked, so beats are still due."""


class Session:
    """Runs one device under the supervisor's orders."""

    def __init__(self, spec: WorkerSpec, device: Device, bus: Bus) -> None:
        self._spec = spec
        self._device = device
        self._bus = bus
        self._log = device.log
        self._serving = False
        self._stopping = False
        self._next_beat = time.monotonic() + spec.beat

    def run(self) -> None:
        """Obey until `Stop` comes or the supervisor is gone."""
        supervisor = watch_process(self._spec.supervisor_pid)
        if supervisor is None:
            self._log.warning("supervisor: process %d: gone already", self._spec.supervisor_pid)
            return
        try:
            while not self._stopping:
                self._beat_if_due()
                # After the beat: sending eats the edge of the socket's descriptor.
                self._obey_all()
                if not self._stopping:
                    self._serve([self._bus.fileno, supervisor])
                if readable(supervisor):
                    self._log.warning("supervisor: gone; finishing what is in flight")
                    break
        finally:
            os.close(supervisor)
            if self._serving:
                self._serving = False
                self._device.disconnect()

    def _serve(self, wake_fds: list[int]) -> None:
        timeout = max(0.0, self._next_beat - time.monotonic())
        if not self._serving:
            _wait(wake_fds, timeout)
            return
        try:
            self._device.run(wake_fds, timeout)
        except BlamedError as error:
            self._serving = False
            self._give_back()
            self._failed("serve", error)

    def _beat_if_due(self) -> None:
        now = time.monotonic()
        if now >= self._next_beat:
            self._next_beat = now + self._spec.beat
            # A lost beat is followed by another; waiting for it would hold up the ring.
            self._bus.offer(Beat, counters=self._device.counters())

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
                self._hook("connected", device.connected)
            case Disconnect():
                self._hook("disconnect", self._disconnect)
            case Stop():
                self._hook("disconnect", self._stop)
            case BackendChanged(node=node, value=value):
                self._hook("serve", lambda: device.backend_changed(node, value))
            case FrontendChanged(node=node, untrusted_value=untrusted):
                self._hook("serve", lambda: device.frontend_changed(node, untrusted))
            case SetLogLevel(level=level):
                self._log.set_level(level)

    def _hook(self, stage: str, hook: Callable[[], None]) -> None:
        try:
            hook()
        except BlamedError as error:
            self._failed(stage, error)

    def _init(self, message: Init) -> None:
        self._bus.send(Initialised, nodes=self._device.init(message.backend))

    def _initialise(self, message: Initialise) -> None:
        if self._serving:
            raise BackendBug(f"initialise: {self._device.device}: serving already")
        nodes = self._device.initialise(message.backend, message.frontend, resume=message.resume)
        self._serving = True
        self._bus.send(Attached, nodes=nodes)

    def _disconnect(self) -> None:
        self._serving = False
        self._device.disconnect()
        self._bus.send(Disconnected)

    def _stop(self) -> None:
        self._stopping = True
        self._serving = False
        self._device.disconnect()

    def _give_back(self) -> None:
        self._device.drain = min(self._device.drain, UNASKED_DRAIN)
        try:
            self._device.disconnect()
        except BlamedError as error:
            self._log.log(error.log_level, "disconnect after a fault: %s", error)

    def _failed(self, stage: str, error: BlamedError) -> None:
        # The supervisor logs what it is told, and bounds what a guest can cause of it.
        level = logging.DEBUG if error.blame is Blame.GUEST else error.log_level
        self._log.guest(level, "%s: %s", stage, error)
        self._bus.send(Failed, stage=stage, blame=error.blame, text=str(error)[:TEXT_MAX])


def watch_process(pid: int) -> int | None:
    """A descriptor that is readable once the process is dead; None if it is dead already."""
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
