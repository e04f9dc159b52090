# SPDX-License-Identifier: MIT
"""Whether the end of a worker is followed by another one: at once, after a pause, or not at all.

Pure: time and chance are passed in. `RULES` says for each kind of end what is done;
`supervisor.policy.table` prints it. One `RestartPolicy` per device remembers its failures.

After the first failure a successor starts at once, because most failures are single events and a
guest waits. After the next ones it waits longer and longer, with jitter so that many devices hit by
one cause do not come back in step. Too many failures within the window end in quarantine, which
only the operator (or a device that the toolstack made again) ends: a worker that a guest can crash
must not be a service for trying exploits. After an uninterrupted time of service earlier failures
are forgotten.

Does not know what other devices do: `supervisor.policy.budget` bounds their sum.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from config.model import RestartConfig
from shared.errors import Blame
from shared.lifecycle_types import Hold


class ExitKind(enum.Enum):
    """Why a worker has ended."""

    CLEAN = "clean"
    RENEW = "renew"
    """It was asked to open what its jail does not let it open; a successor will."""
    CONFIG = "config"
    GUEST = "guest"
    HOST = "host"
    CRASH = "crash"
    """It died of a signal or of an unexpected exception, or broke the message schema."""
    KILLED = "killed"
    """SIGKILL, sent neither by us nor by the kernel for lack of memory."""
    OOM = "oom"
    """SIGKILL by the kernel for lack of memory."""
    HANG = "hang"
    """It missed a deadline and was killed for it."""
    SECURITY = "security"
    """SIGSYS: a system call that its jail does not allow."""
    SPAWN = "spawn"
    """It never came to life."""


KIND_OF_BLAME = {
    Blame.GUEST: ExitKind.GUEST,
    Blame.OPERATOR: ExitKind.CONFIG,
    Blame.HOST: ExitKind.HOST,
    Blame.US: ExitKind.CRASH,
}


class Answer(enum.Enum):
    """What is done about a successor."""

    NONE = "no failure: a successor only where the device wants one"
    RENEW = "no failure: restart at once, within the budget"
    HOLD = "held until the configuration or a node of the backend directory changes"
    NEXT_CONNECTION = "closed; served again when the frontend connects again"
    BACKOFF = "restart with back-off"
    QUARANTINE = "quarantine at once"


class Counts(enum.Enum):
    """Whether it brings the device nearer to quarantine."""

    NO = "no"
    YES = "yes"
    AFTER_SOME = "yes, except the first host_failures_free"
    GUEST = "by itself: guest_faults within guest_window"


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: how the end is recognised (text for people), and what it leads to."""

    seen: str
    answer: Answer
    counts: Counts = Counts.NO


RULES: Final = {
    ExitKind.CLEAN: Rule("exit after it was told to stop", Answer.NONE),
    ExitKind.RENEW: Rule("said `Renew` in answer to `Init`", Answer.RENEW),
    ExitKind.CONFIG: Rule("exit code 78, or blames the operator", Answer.HOLD),
    ExitKind.GUEST: Rule("exit code 76, or blames the guest", Answer.NEXT_CONNECTION, Counts.GUEST),
    ExitKind.HOST: Rule("exit code 75, or blames the host", Answer.BACKOFF, Counts.AFTER_SOME),
    ExitKind.CRASH: Rule(
        "any other signal or exit code, an exit nobody asked for, a broken message",
        Answer.BACKOFF,
        Counts.YES,
    ),
    ExitKind.KILLED: Rule("SIGKILL of a stranger", Answer.BACKOFF, Counts.YES),
    ExitKind.OOM: Rule("SIGKILL, and oom_kill of its cgroup rose", Answer.BACKOFF, Counts.YES),
    ExitKind.HANG: Rule("no beat or no answer in time", Answer.BACKOFF, Counts.YES),
    ExitKind.SECURITY: Rule("SIGSYS", Answer.QUARANTINE, Counts.YES),
    ExitKind.SPAWN: Rule("could not be forked", Answer.BACKOFF, Counts.YES),
}


@dataclass(frozen=True, slots=True)
class Decision:
    """`hold` for the life cycle; with `BACKOFF`, `delay` is the pause in seconds."""

    hold: Hold
    delay: float = 0.0


class Memory(msgspec.Struct, frozen=True):
    """What a `RestartPolicy` remembers, for the next supervisor. Times are CLOCK_MONOTONIC."""

    counted: tuple[float, ...] = ()
    host: tuple[float, ...] = ()
    guest: tuple[float, ...] = ()
    streak: int = 0
    last: str = ""


class _Window:
    """Moments of the recent past."""

    def __init__(self, moments: Iterable[float] = ()) -> None:
        self._moments = list(moments)

    def __iter__(self) -> Iterator[float]:
        return iter(self._moments)

    def add(self, now: float, seconds: float) -> int:
        """Note one more; returns how many there are within the last `seconds`."""
        self._moments = [at for at in self._moments if now - at < seconds]
        self._moments.append(now)
        return len(self._moments)

    def clear(self) -> None:
        self._moments.clear()


class RestartPolicy:
    """The failures of one device and what they lead to. Times are seconds, monotonic."""

    def __init__(self, config: RestartConfig, chance: Callable[[], float] = random.random) -> None:
        self.config = config
        self.last = ""
        """Kind of the last failure, including the guest's; "" when all is forgotten."""
        self._chance = chance
        self._counted, self._host, self._guest = _Window(), _Window(), _Window()
        self._streak = 0
        self._connected_at: float | None = None

    @property
    def failures(self) -> int:
        """Failures of ours and of the host that are not forgotten yet."""
        return self._streak

    @property
    def longest_pause(self) -> float:
        """Seconds: no back-off is longer."""
        return self.config.max * (1 + self.config.jitter)

    @property
    def memory(self) -> Memory:
        """What is remembered."""
        return Memory(
            counted=tuple(self._counted),
            host=tuple(self._host),
            guest=tuple(self._guest),
            streak=self._streak,
            last=self.last,
        )

    def recall(self, memory: Memory) -> None:
        """Go on where an earlier supervisor stopped."""
        self._counted, self._host = _Window(memory.counted), _Window(memory.host)
        self._guest = _Window(memory.guest)
        self._streak, self.last = memory.streak, memory.last

    def connected(self, now: float) -> None:
        """The device is Connected and served. May be called more than once."""
        if self._connected_at is None:
            self._connected_at = now

    def disconnected(self) -> None:
        """The device is not Connected any more; if by failure, `ended` follows."""
        self._connected_at = None

    def reset(self) -> None:
        """Forget everything: the operator wants it, or the cause of the failures has changed."""
        for window in (self._counted, self._host, self._guest):
            window.clear()
        self._streak = 0
        self.last = ""

    def ended(self, kind: ExitKind, now: float) -> Decision:
        """Decide after a worker's end."""
        served_since, self._connected_at = self._connected_at, None
        if served_since is not None and now - served_since >= self.config.stable_after:
            self.reset()
        rule = RULES[kind]
        if rule.answer in (Answer.NONE, Answer.RENEW):
            return Decision(Hold.NONE)
        self.last = kind.value
        if rule.answer is Answer.HOLD:
            return Decision(Hold.CONFIG)
        if self._is_too_much(rule, now):
            return Decision(Hold.QUARANTINED)
        if rule.answer is Answer.NEXT_CONNECTION:
            return Decision(Hold.GUEST)
        return self._back_off()

    def _is_too_much(self, rule: Rule, now: float) -> bool:
        """Count the failure; returns whether it ends in quarantine."""
        config = self.config
        if rule.counts is Counts.GUEST:
            return self._guest.add(now, config.guest_window) >= config.guest_faults
        self._streak += 1
        if rule.answer is Answer.QUARANTINE:
            return True
        window = config.quarantine_window
        spared = rule.counts is Counts.AFTER_SOME and (
            self._host.add(now, window) <= config.host_failures_free
        )
        return not spared and (self._counted.add(now, window) >= config.quarantine_failures)

    def _back_off(self) -> Decision:
        config = self.config
        if self._streak == 1:
            return Decision(Hold.NONE)
        # The exponent is bounded because a float power overflows long before a guest gives up.
        pause = min(config.max, config.initial * config.factor ** min(self._streak - 2, 64))
        return Decision(Hold.BACKOFF, pause * (1 + config.jitter * (2 * self._chance() - 1)))
