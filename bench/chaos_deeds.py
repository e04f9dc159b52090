# SPDX-License-Identifier: MIT
"""Carries out the plan of `make chaos` and remembers what was done when.

Workers are found by their titles in /proc, and only among our own descendants, so none of this goes
through the supervisor, which may just be dead. Signals go through pidfds.

A supervisor that is killed is started again at once, as systemd does, also when it could not start
because xenstored was away. xenstored is started again by its host.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import NamedTuple

from bench.chaos_guest import DEVID, ChaosGuest
from bench.chaos_plan import Deed, Step
from bench.held import children, command_line, reap_orphans
from bench.lab import Lab
from shared.errors import HostError


class Done(NamedTuple):
    """One deed; nanoseconds of CLOCK_MONOTONIC."""

    deed: Deed
    guest: int
    begin: int
    end: int
    """When it was over: supervisor or xenstored back, worker continued; else as `begin`."""


class Hand:
    """`carry_out` in one thread; the outages end in threads of their own."""

    def __init__(self, lab: Lab, guests: list[ChaosGuest], toolstack: threading.Lock) -> None:
        self.done: list[Done] = []
        self.skipped: Counter[Deed] = Counter()
        """There was nobody to do it to, or the last one of its kind was not over."""
        self.wrong: list[str] = []
        self._lab = lab
        self._guests = guests
        self._toolstack = toolstack
        self._supervisor_away = threading.Lock()
        self._xenstored_away = threading.Lock()
        self._outages: list[threading.Thread] = []
        self._stopped: dict[int, Done] = {}
        """Pidfds of workers that are stopped."""
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._clock = threading.Event()

    def carry_out(self, plan: list[Step], begin: float) -> None:
        """Do all steps, each `Step.at` seconds after `begin` (monotonic) or as soon as possible."""
        for step in plan:
            self._put(begin + step.at, lambda step=step: self._do(step))  # type: ignore[misc]
        while self._due:
            at, _, deed = heapq.heappop(self._due)
            self._clock.wait(max(0.0, at - time.monotonic()))
            # As init would at once: a dead worker that nobody reaps still looks alive.
            reap_orphans(self.known())
            deed()
        for pidfd in list(self._stopped):
            self._continue(pidfd)
        for thread in self._outages:
            thread.join()

    def _put(self, at: float, deed: Callable[[], None]) -> None:
        heapq.heappush(self._due, (at, next(self._order), deed))

    def _do(self, step: Step) -> None:
        match step.deed:
            case Deed.KILL:
                done = self._signal(step, signal.SIGKILL)
            case Deed.STOP:
                done = self._signal(step, signal.SIGSTOP)
            case Deed.SUPERVISOR:
                done = self._begin(self._supervisor_away, self._kill_supervisor)
            case Deed.XENSTORED:
                done = self._begin(self._xenstored_away, self._kill_xenstored)
            case _:
                self._guests[step.guest].order(step.deed)
                done = True
        if not done:
            self.skipped[step.deed] += 1

    def known(self) -> set[int]:
        """Children that someone waits for."""
        lab = self._lab
        pids = [lab.hypervisor_pid, lab.supervisor and lab.supervisor.pid]
        return {pid for pid in [*pids, *(guest.pid for guest in self._guests)] if pid}

    # --- workers

    def _signal(self, step: Step, number: int) -> bool:
        pidfd = self._worker(step.guest)
        if pidfd is None:
            return False
        now = time.monotonic_ns()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, number)
        done = Done(step.deed, step.guest, now, now)
        if step.deed is not Deed.STOP:
            os.close(pidfd)
            self.done.append(done)
            return True
        self._stopped[pidfd] = done
        if step.seconds:
            self._put(time.monotonic() + step.seconds, lambda: self._continue(pidfd))
        return True

    def _continue(self, pidfd: int) -> None:
        done = self._stopped.pop(pidfd, None)
        if done is None:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        os.close(pidfd)
        self.done.append(done._replace(end=time.monotonic_ns()))

    def _worker(self, guest: int) -> int | None:
        """A pidfd of the guest's worker, None if it has none."""
        domid = self._guests[guest].domid
        if domid is None:
            return None
        title = f"xenbackd: vbd/{domid}/{DEVID}"
        for pid in self._workers():
            if command_line(pid) == title:
                with contextlib.suppress(OSError):
                    pidfd = os.pidfd_open(pid)
                    # Asked again: the number may be another's by now.
                    if command_line(pid) == title:
                        return pidfd
                    os.close(pidfd)
        return None

    def _workers(self) -> set[int]:
        """Children of the fork servers, also of one whose supervisor is dead, and our own orphans.

        Found without a walk through all of /proc: that would be load at the very moment that is
        looked at.
        """
        found = children(os.getpid())
        for _ in range(2):
            found |= {child for pid in found for child in children(pid)}
        return found

    # --- the others

    def _begin(self, free: threading.Lock, outage: Callable[[], None]) -> bool:
        """Let an outage begin unless the last one is not over; `free` is held meanwhile."""
        if not free.acquire(blocking=False):
            return False

        def run() -> None:
            try:
                outage()
            except (AssertionError, HostError, OSError) as error:
                self.wrong.append(f"{time.monotonic():.3f} {error}")
            finally:
                free.release()

        thread = threading.Thread(target=run, daemon=True)
        self._outages.append(thread)
        thread.start()
        return True

    def _kill_supervisor(self) -> None:
        lab = self._lab
        if lab.supervisor is None or lab.supervisor.poll() is not None:
            raise AssertionError("the supervisor ended by itself")
        begin = time.monotonic_ns()
        lab.stop_supervisor(signal.SIGKILL)
        for attempt in range(10):
            try:
                lab.start_supervisor()
                break
            except AssertionError:
                # It ends when it finds no xenstored; its supervisor starts it again.
                if attempt == 9 or lab.supervisor is None or lab.supervisor.poll() is None:
                    raise
        self.done.append(Done(Deed.SUPERVISOR, -1, begin, time.monotonic_ns()))

    def _kill_xenstored(self) -> None:
        with self._toolstack:  # which would fail, and is not what is tried here
            self._kill_xenstored_now()

    def _kill_xenstored_now(self) -> None:
        pid = int(Path(self._lab.embedded_dir / "xenstored.pid").read_text())
        if "embedded.xenstored" not in command_line(pid):
            raise AssertionError(f"xenstored: process {pid}: it is no xenstored")
        begin = time.monotonic_ns()
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while not self._xenstored_answers():
            if time.monotonic() > deadline:
                raise AssertionError("xenstored did not come back within 30 s")
            self._clock.wait(0.02)
        self.done.append(Done(Deed.XENSTORED, -1, begin, time.monotonic_ns()))

    def _xenstored_answers(self) -> bool:
        try:
            with self._lab.xenstore() as xenstore:
                return xenstore.read_or_none("/local/domain/0/name") is not None
        except HostError:
            return False
