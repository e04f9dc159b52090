# SPDX-License-Identifier: MIT
"""What follows the end of a device's worker, and when the next one may start.

Three things have a say: the restart policy of the device, which may ask for a pause; the restart
budget of its guest and of the host, which gives turns; and the operator, whose word ends every
wait. What they remember is kept in the file of the worker, for the next supervisor.
"""

from __future__ import annotations

from collections.abc import Callable

from shared.lifecycle_types import Hold
from supervisor.policy.budget import Admission
from supervisor.policy.restart import ExitKind, RestartPolicy
from supervisor.timer import Timer
from supervisor.workers.lease import WorkerFile
from supervisor.workers.records import WorkerRecord
from supervisor.workers.surroundings import Surroundings


class Succession:
    """Of one device; `go_on` is called when a wait is over."""

    def __init__(
        self,
        domid: int,
        policy: RestartPolicy,
        file: WorkerFile,
        around: Surroundings,
        go_on: Callable[[], None],
    ) -> None:
        self.policy = policy
        self._file = file
        self._around = around
        self._admission = Admission(around.budget, domid)
        self._pause = Timer()
        self._go_on = go_on
        self.failures = 0
        """Workers that ended without an order to, ever."""

    def turn(self) -> float:
        """Seconds until the wanted start may happen; 0 uses the turn up."""
        self.cancel()
        return self._admission.wait(self._around.clock(), self._around.config.limits)

    def wait(self, seconds: float) -> None:
        """Go on after so many seconds."""
        self._pause.set(seconds, self._go_on)

    def cancel(self) -> None:
        """Stop waiting for a successor. Idempotent."""
        self._pause.cancel()

    def planned(self) -> None:
        """The next start is no restart after a failure, so it needs no turn."""
        self._admission.waive(self._around.clock())

    def forgive(self) -> None:
        """Failures are forgotten, and nothing is waited for."""
        self.policy.reset()
        self._file.forgiven(self.policy.memory)
        self.planned()
        self.cancel()

    def recall(self, record: WorkerRecord) -> None:
        """Go on where an earlier supervisor stopped."""
        self._file.found(record)
        self.policy.recall(record.memory)
        # The first start here is a restart like any other, and takes its turn.
        self.turn()

    def resume(self, until: float) -> None:
        """Wait for the rest of a pause that an earlier supervisor began."""
        pause = max(until - self._around.clock(), 0.0)
        # The file may be from before the host's last start, and its clock another one.
        self.wait(min(pause, self.policy.longest_pause))

    def ended(self, kind: ExitKind) -> tuple[Hold, float]:
        """A worker is dead: what holds the next one, and for how many seconds if it waits."""
        self.failures += kind not in (ExitKind.CLEAN, ExitKind.RENEW)
        now = self._around.clock()
        decision = self.policy.ended(kind, now)
        waits = decision.hold is Hold.BACKOFF
        self._file.over(
            quarantined=decision.hold is Hold.QUARANTINED,
            memory=self.policy.memory,
            held_until=now + decision.delay if waits else 0.0,
        )
        if waits:
            self.wait(decision.delay)
        return decision.hold, decision.delay

    def close(self) -> None:
        """The device is over."""
        self._admission.withdraw(self._around.clock())
        self.cancel()
