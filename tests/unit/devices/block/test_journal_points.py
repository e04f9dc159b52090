# SPDX-License-Identifier: MIT
"""The block worker dies before every single store that matters, and its successor has it right.

A story of eight requests, answered in disorder, is told once to count the points and then once per
point. After each death, what the threads had in their hands has either been done or not; then a
new worker takes up ring and journal, may itself die, and in the end all must be as if nobody had.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.block.blk import DISCARD, EOPNOTSUPP, FLUSH, OKAY, READ, WRITE
from tests.fakes.block.blkinject import KILLED, Mortal, stamp

UNKNOWN = 9
PROLOGUE = {1: WRITE, 2: WRITE}
STORY = {3: WRITE, 4: READ, 5: FLUSH, 6: UNKNOWN, 7: DISCARD, 8: WRITE}
SECTORS = {1: 0, 2: 8, 3: 16, 4: 0, 7: 24, 8: 32}


class Teller:
    """The guest of the story: puts what comes next, takes answers, never forgets one."""

    def __init__(self, **options: Any) -> None:
        self.mortal = Mortal(**options)
        self.mortal.disk.data[24 * 512 : 32 * 512] = stamp(99)
        self.answers: dict[int, int] = {}
        self.put: set[int] = set()

    def tell(self) -> bool:
        """From where it stands to its end; False if the worker died on the way."""
        for chapter in (PROLOGUE, STORY):
            for ident, operation in chapter.items():
                if ident not in self.put:
                    self._put(ident, operation)
            self.mortal.frontend.push()
            alive = self.mortal.settle()
            self._read()
            if not alive:
                return False
            assert set(chapter) <= set(self.answers), "a request is lost"
        return True

    def _put(self, ident: int, operation: int) -> None:
        self.put.add(ident)
        frontend = self.mortal.frontend
        if operation in (READ, WRITE):
            if operation == WRITE:
                self.mortal.page(ident)[:] = stamp(ident)
            self.mortal.put(operation, ident, SECTORS[ident], ident)
        elif operation == DISCARD:
            frontend.put(DISCARD, ident, SECTORS[ident], sectors=8, count=0)
        else:
            frontend.put(operation, ident)

    def _read(self) -> None:
        for ident, operation, status in self.mortal.frontend.answers():
            assert ident not in self.answers, f"request {ident} has two answers"
            assert operation == {**PROLOGUE, **STORY}[ident], "the answer of another request"
            self.answers[ident] = status

    def die(self, *, done: bool) -> None:
        """The worker goes; what threads were at is done, or is not."""
        self._read()
        while done and self.mortal.queued():
            self.mortal.finish(0)
        self.mortal.kill()
        self.told_before = len(self.mortal.disk.trace)
        self.answered_before = set(self.answers)

    def check_end(self) -> None:
        """All as if nobody had died."""
        expected = dict.fromkeys([*PROLOGUE, *STORY], OKAY) | {6: EOPNOTSUPP}
        assert self.answers == expected
        disk = self.mortal.disk
        for ident in (1, 2, 3, 8):
            at = SECTORS[ident] * 512
            assert disk.data[at : at + 4096] == stamp(ident), f"write {ident}"
        assert bytes(self.mortal.page(4)) == stamp(1), "the read's page"
        assert disk.data[24 * 512 : 32 * 512] == bytes(4096), "the discard"
        assert disk.durable[:8192] == stamp(1) + stamp(2), "the flush covers what was answered"

    def check_not_again(self) -> None:
        """What had its answer before a death was not run after it."""
        again = {
            (call.operation, call.offset) for call in self.mortal.disk.trace[self.told_before :]
        }
        for ident in self.answered_before & {1, 2, 3, 8}:
            assert ("write", SECTORS[ident] * 512) not in again, f"write {ident} was done again"
        if 7 in self.answered_before:
            assert ("discard", SECTORS[7] * 512) not in again, "the discard was done again"


def points(**options: Any) -> int:
    """How many there are in the story."""
    teller = Teller(**options)
    assert teller.mortal.start(resume=False) == 0
    teller.mortal.arm(0)
    assert teller.tell()
    count = teller.mortal.passed()
    teller.mortal.close()
    return count


VARIANTS: dict[str, dict[str, Any]] = {
    "threads": {"persistent": True, "threads": True},
    "inline": {"persistent": True, "threads": False},
    "copies, indices wrap": {"persistent": False, "threads": True, "start": 0xFFFFFFFC},
}


@pytest.mark.parametrize("done", [False, True], ids=["undone", "done"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_block_journal_killed_at_any_store_loses_and_repeats_nothing(
    variant: str, done: bool
) -> None:
    """One death, at each point in turn."""
    options = VARIANTS[variant]
    count = points(**options)
    assert count > 200
    for point in range(1, count):
        teller = Teller(**options)
        assert teller.mortal.start(resume=False) == 0
        teller.mortal.arm(point)
        assert not teller.tell(), f"point {point} of {count} was not reached"
        teller.mortal.arm(0)
        teller.die(done=done)
        assert teller.mortal.start() == 0, f"point {point}: {teller.mortal.status().fault}"
        assert teller.tell()
        teller.check_end()
        teller.check_not_again()
        teller.mortal.kill()
        assert teller.mortal.start() == 0, f"point {point}: the recovery left a damaged journal"
        teller.mortal.close()


@pytest.mark.parametrize("first", range(0, 260, 13))
def test_block_journal_killed_during_recovery_loses_and_repeats_nothing(first: int) -> None:
    """A second death, at each point from the successor's attach on."""
    point = 1
    while True:
        teller = Teller(persistent=False)
        assert teller.mortal.start(resume=False) == 0
        teller.mortal.arm(first + 1)
        assert not teller.tell()
        teller.die(done=first % 2 == 0)
        teller.mortal.arm(point)
        alive = teller.mortal.start() != KILLED and teller.tell()
        if not alive:
            teller.mortal.arm(0)
            teller.die(done=point % 2 == 0)
            assert teller.mortal.start() == 0
            assert teller.tell()
            teller.check_not_again()
        teller.check_end()
        teller.mortal.close()
        if alive:
            break
        point += 1
    assert point > 5
