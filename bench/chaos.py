# SPDX-License-Identifier: MIT
"""`make chaos`: guests with verified I/O while everything that serves them is killed.

    calm       nothing is done; the latency to compare with. Before each quarter of a minute of
               chaos and after the last, for a machine's own pace changes all the time
    chaos      the plan (`chaos_plan`), loads paced so that the CPUs have time left
    flat out   its last quarter: the plan goes on, loads are not paced; in no figure of latency
    settled    everything continued, every guest reads back all that it knows, and is rebooted

Exit status 1 if a guest saw an I/O error, a mismatch or no answer, if a device is not Connected at
the end, or if anything is held that was not held at the beginning; the lab's directory with the log
is kept then. Floors of latency are printed and do not change the status: they say as much of the
machine as of us.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import secrets
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from rich.console import Console

from bench import held
from bench.chaos_deeds import Hand
from bench.chaos_figures import Figures, Records, Span, make_figures, percentile
from bench.chaos_guest import DEVID, ChaosGuest
from bench.chaos_plan import CONFIG, Deed, Step, make_plan
from bench.lab import Lab, is_serving
from bench.steal import Steal, ticks
from shared.control import Done, Restart
from shared.errors import BlamedError
from supervisor.cli.client import Client

CALM: Final = 6.0
"""Seconds: every guest goes through all its loads twice."""
SLICE: Final = 15.0
"""Seconds of chaos from one calm to the next."""
REST: Final = 2.0
"""Seconds from the last deed to the calm: what was killed last is served again by then."""
ENOUGH: Final = 10_000
"""I/Os of which a p99 says something: a hundred are slower."""
FLAT_OUT: Final = 0.25
SETTLE: Final = 60.0
FLOOR_PAUSE: Final = 100.0
FLOOR_OTHERS: Final = 1.25
FLOOR_KILLS: Final = 100.0
"""Worker kills a minute."""


class Chaos:
    """One run. `wrong` is what must not have happened."""

    def __init__(self, lab: Lab, options: argparse.Namespace, say: Callable[[str], None]) -> None:
        self._lab = lab
        self._options = options
        self._say = say
        toolstack = threading.Lock()
        self._guests = [
            ChaosGuest(lab, number, options.seed, toolstack) for number in range(options.guests)
        ]
        self._hand = Hand(lab, self._guests, toolstack)
        self._cpu: dict[str, list[int]] = {}
        """Of each phase, as `_cpu_ticks`."""
        self._steal = Steal()
        self.wrong: list[str] = []

    def run(self, plan: list[Step]) -> None:
        """From making the guests to the verdict."""
        for guest in self._guests:
            guest.create()
        self._wait_served()
        before = self._count(None)
        self._steal.start()
        for guest in self._guests:
            guest.start()
        flat_out = self._options.seconds * (1 - FLAT_OUT)
        calm, chaos, at = [self._calm()], [], 0.0
        while at < flat_out:
            until = min(at + SLICE, flat_out)
            chaos.append(self._phase("chaos", functools.partial(self._deeds, plan, at, until)))
            threading.Event().wait(REST)
            calm.append(self._calm())
            at = until
        for guest in self._guests:
            guest.paced = False
        self._phase("flat out", lambda: self._deeds(plan, flat_out, math.inf))
        self._steal.stop()
        self._settle(before)
        busy = [span for guest in self._guests for span in guest.made]
        records = [Records(guest.record) for guest in self._guests]
        stolen = self._steal.spans
        self._report(make_figures(records, self._hand.done, calm, chaos, busy, stolen))
        self._report_steal({"calm": calm, "chaos": chaos})

    def _calm(self) -> Span:
        return self._phase("calm", lambda: threading.Event().wait(self._options.calm))

    def _deeds(self, plan: list[Step], begin: float, end: float) -> None:
        """Carry out the part of the plan between two moments of it."""
        steps = [step for step in plan if begin <= step.at < end]
        self._hand.carry_out(steps, time.monotonic() - begin)

    def _phase(self, name: str, work: Callable[[], object]) -> Span:
        begin, before = time.monotonic_ns(), _cpu_ticks()
        work()
        spent = [now - was for now, was in zip(_cpu_ticks(), before, strict=True)]
        sums = self._cpu.setdefault(name, [0, 0, 0])
        sums[:] = map(sum, zip(sums, spent, strict=True))
        return begin, time.monotonic_ns()

    def _settle(self, before: held.Held) -> None:
        """Let everything come to rest and hold it against what there was."""
        for guest in self._guests:
            guest.finish()
            self.wrong += guest.wrong
        self.wrong += self._hand.wrong
        if self.wrong:
            return  # a guest that gave up is not at rest
        try:
            self._wait_served()
            self._replace_workers()
            for guest in self._guests:
                guest.reconnect()
            self._wait_served()
        except (AssertionError, BlamedError) as error:
            self.wrong.append(str(error))
            return
        after = self._count(before)
        self.wrong += [f"left behind: {line}" for line in after.beyond(before)]
        for guest in self._guests:
            guest.close()

    def _replace_workers(self) -> None:
        """By `restart`: what an earlier supervisor left may stay as long as its workers."""
        before = self._lab.status().devices
        with Client(self._lab.directory, timeout=SETTLE) as client:
            for one in before:
                client.ask(Restart(device=one.device), Done)
        old = {one.pid for one in before}
        self._lab.wait(
            lambda: all(
                is_serving(one) and one.pid not in old for one in self._lab.status().devices
            ),
            SETTLE,
            "every worker to be replaced",
        )

    def _count(self, before: held.Held | None) -> held.Held:
        """Count what is held; with `before`, once what is on its way out has had time to go."""
        deadline = time.monotonic() + SETTLE / 4
        while True:
            held.reap_orphans(self._hand.known())
            now = held.count(self._lab)
            if before is None or not now.beyond(before) or time.monotonic() > deadline:
                return now
            threading.Event().wait(0.1)

    def _wait_served(self) -> None:
        names = {f"vbd/{guest.domid}/{DEVID}" for guest in self._guests}
        self._lab.wait(
            lambda: {one.device for one in self._lab.status().devices if is_serving(one)} == names,
            SETTLE,
            f"all of {len(names)} devices Connected and no other, now {self._lab.status().devices}",
        )

    # --- what came of it

    def _report(self, figures: Figures) -> None:
        say, hand = self._say, self._hand
        counts = Counter(one.deed for one in hand.done)
        totals: Counter[str] = Counter()
        for guest in self._guests:
            totals.update(guest.totals)
        done = ", ".join(f"{deed.value} {counts[deed]}" for deed in Deed if counts[deed])
        skipped = ", ".join(f"{deed.value} {n}" for deed, n in hand.skipped.items())
        say(f"deeds: {done}; not possible at their time: {skipped or 'none'}")
        say("guests: " + ", ".join(f"{count} {what}" for what, count in totals.items()))
        rate = counts[Deed.KILL] * 60 / self._options.seconds
        held_ = _held(rate >= FLOOR_KILLS)
        say(f"worker kills: {rate:.0f} a minute (floor {FLOOR_KILLS:g}) {held_}")
        self._report_pauses(figures)
        self._report_others(figures)
        cpu = (f"{k} {a / c:.0%} of {b / c:.0%}" for k, (a, b, c) in self._cpu.items() if c)
        say("CPUs, this run's share of what is in use: " + ", ".join(cpu))

    def _report_pauses(self, figures: Figures) -> None:
        say = self._say
        held_ = "not measured"
        if figures.pauses:
            held_ = _held(percentile(figures.pauses, 0.99) <= FLOOR_PAUSE)
        say(f"pause per worker kill: {_spread(figures.pauses)}")
        say(f"  (floor p99 {FLOOR_PAUSE:g} ms) {held_}; it is the longest wait of any I/O of that")
        say("  guest that was in flight at the SIGKILL or asked for within 1 s, by the guest's own")
        say(f"  record of each I/O; {figures.unseen} kills met a guest that asked for nothing")
        say(f"  while others of its needs were away: {_spread(figures.pauses_in_outages)}")
        say(f"  while the host took CPUs away: {_spread(figures.pauses_stolen)}")
        say(f"pause per stopped worker, as long as it was: {_spread(figures.stops)}")
        say(f"longest wait per supervisor kill: {_spread(figures.outages)}")

    def _report_others(self, figures: Figures) -> None:
        say = self._say
        say(f"latency, calm: {_spread(figures.calm)}")
        say(f"latency of guests not hit: {_spread(figures.others)}")
        ratio, verdict = _compare(figures.calm, figures.others)
        say(f"  p99 {ratio:.2f} times the calm one (floor {FLOOR_OTHERS:g}) {verdict}")
        calm = sorted([*figures.calm, *figures.calm_stolen])
        others = sorted([*figures.others, *figures.others_stolen])
        say("  the same with the seconds in which the host took CPUs away:")
        say(f"    calm {_spread(calm)}; not hit {_spread(others)}; {_compare(calm, others)[0]:.2f}")
        away = percentile(figures.others_in_outages, 0.99)
        say(f"  while supervisor, xenstored or a guest is being started: p99 {away:.2f} ms")

    def _report_steal(self, phases: dict[str, list[Span]]) -> None:
        seconds = {
            name: (
                sum(self._steal.seconds(*span) for span in spans),
                sum(end - begin for begin, end in spans) / 1e9,
            )
            for name, spans in phases.items()
        }
        told = ", ".join(f"{name} {a:.0f} of {b:.0f}" for name, (a, b) in seconds.items())
        self._say(f"seconds in which the host took CPUs away: {told}")


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "none"
    p50, p99 = percentile(values, 0.5), percentile(values, 0.99)
    return f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, max {values[-1]:.1f} ms ({len(values)})"


def _compare(calm: Sequence[float], others: Sequence[float]) -> tuple[float, str]:
    """The ratio of the p99, and whether it is within the floor; both sorted."""
    if min(len(calm), len(others)) < ENOUGH:
        return math.nan, "not measured: too little of it undisturbed"
    ratio = percentile(others, 0.99) / percentile(calm, 0.99)
    return ratio, _held(ratio <= FLOOR_OTHERS)


def _held(held_: bool) -> str:
    return "ok" if held_ else "MISSED"


def _cpu_ticks() -> tuple[int, int, int]:
    """Clock ticks of all CPUs since boot: used by this run, used at all, all."""
    every = ticks()
    return sum(map(held.cpu_ticks, held.below({os.getpid()}))), every.used, every.all


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description="Kill everything but guests.")
    parser.add_argument("--seconds", type=float, default=60.0, help="of chaos")
    parser.add_argument("--calm", type=float, default=CALM, help="seconds of each")
    parser.add_argument("--guests", type=int, default=8)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--plan", action="store_true", help="print the plan and do nothing")
    return parser.parse_args()


def main() -> int:
    """Run; returns the exit status."""
    options = _arguments()
    if options.seed is None:
        options.seed = secrets.randbelow(1 << 31)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(f"seed {options.seed}, {options.seconds:g} s, {options.guests} guests")
    plan = make_plan(options.seed, options.seconds, options.guests)
    if options.plan:
        console.print("\n".join(map(str, plan)))
        return 0
    held.adopt_orphans()
    with Lab(CONFIG, own_hypervisor=True) as lab:
        chaos = Chaos(lab, options, console.print)
        try:
            chaos.run(plan)
        except BaseException:
            lab.keep = True
            console.print(f"seed {options.seed}, kept: {lab.directory}, {lab.images}")
            raise
        lab.keep = bool(chaos.wrong)
        for line in chaos.wrong:
            console.print(f"FAILED {line}")
        if chaos.wrong:
            console.print(
                f"FAILED: seed {options.seed}, log in {lab.directory}, records in {lab.images}"
            )
            return 1
    console.print("no I/O error, no mismatch, every device Connected, nothing left behind")
    return 0


if __name__ == "__main__":
    sys.exit(main())
