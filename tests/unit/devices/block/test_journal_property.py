# SPDX-License-Identifier: MIT
"""Any interleaving of a guest, the worker's steps and its deaths: exactly once, in every one."""

from __future__ import annotations

import contextlib

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.fakes.block.blk import ERROR, FLUSH, OKAY, READ, WRITE
from tests.fakes.block.blkinject import KILLED, Mortal, stamp

PLACES = 24
"""4 KiB places on the disk the guest uses; never two requests at a time for one."""
POISON_DEATHS = 4


class Asked:
    """A request without an answer."""

    def __init__(self, operation: int, place: int, page: int, durable: dict[int, int]) -> None:
        self.operation = operation
        self.place = place
        self.page = page
        self.durable = durable
        """Of a flush: what was answered when it was asked."""
        self.deaths = 0


class Interleavings(RuleBasedStateMachine):
    """The guest knows what it may expect; the worker comes and goes."""

    def __init__(self) -> None:
        super().__init__()
        self.mortal: Mortal
        self.number = 0
        self.asked: dict[int, Asked] = {}
        self.content: dict[int, int | None] = dict.fromkeys(range(PLACES), 0)
        """Stamp of each place; None after a write that failed."""

    @initialize(
        start=st.sampled_from([0, 0xFFFFFFF0]), persistent=st.booleans(), threads=st.booleans()
    )
    def begin(self, start: int, persistent: bool, threads: bool) -> None:
        self.mortal = Mortal(start=start, persistent=persistent, threads=threads)
        assert self.mortal.start(resume=False) == 0

    # --- the guest

    def _room(self) -> bool:
        return len(self.asked) < self.mortal.frontend.slots

    def _free(self, wanted: int, taken: set[int], size: int) -> int:
        free = [one for one in range(size) if one not in taken]
        return free[wanted % len(free)]

    @precondition(lambda self: len(self.asked) < 20)
    @rule(operation=st.sampled_from([READ, WRITE, WRITE]), wanted=st.integers(0, 1000))
    def ask(self, operation: int, wanted: int) -> None:
        place = self._free(wanted, {one.place for one in self.asked.values()}, PLACES)
        page = self._free(wanted, {one.page for one in self.asked.values()}, 60)
        self.number += 1
        if operation == WRITE:
            self.mortal.page(page)[:] = stamp(self.number)
        self.mortal.put(operation, self.number, place * 8, page)
        self.asked[self.number] = Asked(operation, place, page, {})

    @precondition(lambda self: len(self.asked) < 20)
    @rule()
    def ask_flush(self) -> None:
        self.number += 1
        self.mortal.frontend.put(FLUSH, self.number)
        durable = {place: one for place, one in self.content.items() if one is not None}
        busy = {one.place for one in self.asked.values() if one.operation == WRITE}
        for place in busy:
            durable.pop(place, None)
        self.asked[self.number] = Asked(FLUSH, -self.number, -self.number, durable)

    @rule()
    def push(self) -> None:
        self.mortal.frontend.push()

    @rule()
    def answers(self) -> None:
        for ident, operation, status in self.mortal.frontend.answers():
            assert ident in self.asked, f"request {ident} was not asked, or has two answers"
            self._answered(ident, self.asked.pop(ident), operation, status)

    def _answered(self, ident: int, asked: Asked, operation: int, status: int) -> None:
        assert operation == asked.operation
        assert status == OKAY or (status == ERROR and asked.deaths >= POISON_DEATHS)
        if operation == WRITE:
            self.content[asked.place] = ident if status == OKAY else None
        elif operation == READ and status == OKAY:
            expected = self.content[asked.place]
            if expected is not None:
                assert bytes(self.mortal.page(asked.page)) == (
                    stamp(expected) if expected else bytes(4096)
                )
        elif operation == FLUSH and status == OKAY:
            self._check_durable(asked)

    def _check_durable(self, asked: Asked) -> None:
        for place, number in asked.durable.items():
            found = int.from_bytes(self.mortal.disk.durable[place * 4096 :][:8], "little")
            # Or something newer that was asked since.
            assert found >= number, f"place {place}: a flush does not cover write {number}"

    # --- the worker

    @rule()
    def serve(self) -> None:
        assert self.mortal.run() != KILLED

    @precondition(lambda self: self.mortal.queued() > 0)
    @rule(which=st.integers(0, 100))
    def finish(self, which: int) -> None:
        self.mortal.finish(which % self.mortal.queued())

    @rule(point=st.integers(1, 120), done=st.booleans(), again=st.integers(0, 40))
    def serve_and_die(self, point: int, done: bool, again: int) -> None:
        self.mortal.arm(point)
        self.mortal.run()
        self.mortal.arm(0)
        self.die(done, again)

    @rule(done=st.booleans(), again=st.integers(0, 40))
    def die(self, done: bool, again: int) -> None:
        """Of itself, then perhaps while it recovers, then not."""
        while done and self.mortal.queued():
            self.mortal.finish(0)
        self._bury()
        if again:
            self.mortal.arm(again)
            result = self.mortal.start()
            self.mortal.arm(0)
            if result != KILLED:
                assert result == 0
                return
            self._bury()
        assert self.mortal.start() == 0

    def _bury(self) -> None:
        self.mortal.kill()
        for one in self.asked.values():
            one.deaths += 1

    # --- always

    @invariant()
    def durable_is_what_was_answered(self) -> None:
        """No write is done again after its answer: the disk holds what was answered last."""
        if not hasattr(self, "mortal"):
            return
        busy = {one.place for one in self.asked.values()}
        for place, number in self.content.items():
            if place not in busy and number is not None:
                found = int.from_bytes(self.mortal.disk.data[place * 4096 :][:8], "little")
                assert found == number, f"place {place}: {found} and not {number}"

    def teardown(self) -> None:
        """Whatever happened, everything is answered in the end."""
        with contextlib.ExitStack() as stack:
            if not hasattr(self, "mortal"):
                return
            stack.callback(self.mortal.close)
            self.mortal.frontend.push()
            assert self.mortal.settle()
            self.answers()
            assert self.asked == {}


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
