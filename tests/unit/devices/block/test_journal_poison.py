# SPDX-License-Identifier: MIT
"""The in-flight journal: requests in hand at death after death, and which of them are given up."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from tests.fakes.block.blk import ERROR, OKAY, READ
from tests.fakes.block.blkinject import Mortal, connected, statuses


@pytest.fixture
def mortal() -> Iterator[Mortal]:
    """A worker on a new ring."""
    with connected() as it:
        yield it


def test_block_journal_after_a_crash_suspects_run_one_at_a_time(mortal: Mortal) -> None:
    """What was in hand at a crash is run alone, and new requests wait for the end of it."""
    mortal.read(1, 2, 3)
    mortal.kill(crash=True)
    mortal.put(READ, 4, 8, 4)
    mortal.put(READ, 5, 8, 5)
    mortal.frontend.push()

    assert mortal.start() == 0
    for ident in (1, 2, 3):
        mortal.run()
        assert mortal.queued() == 1
        mortal.finish(0)
        mortal.run()
        assert mortal.frontend.answers() == [(ident, READ, OKAY)]
    mortal.run()
    assert mortal.queued() == 2


def test_block_journal_in_hand_at_two_crashes_is_answered_with_an_error(mortal: Mortal) -> None:
    """The one that kills is given up; those that died with it the first time are not."""
    mortal.read(1, 2, 3)
    mortal.kill(crash=True)
    assert mortal.start() == 0
    mortal.run()
    mortal.finish(0)
    mortal.run()
    mortal.run()  # the second is in hand, and kills
    mortal.kill(crash=True)

    assert mortal.start() == 0
    assert mortal.settle()
    assert statuses(mortal.frontend.answers()) == {1: OKAY, 2: ERROR, 3: OKAY}
    assert mortal.counters()["poisoned"] == 1
    status = mortal.status()
    assert (status.poison_operation, status.poison_offset) == (READ, 2 * 8 * 512)


@pytest.mark.parametrize("kills", [1, 2, 3])
def test_block_journal_in_hand_at_a_few_kills_is_no_poison(mortal: Mortal, kills: int) -> None:
    """SIGKILL comes from outside: three in a row are no reason to fail a guest's request."""
    mortal.read(1, 2)
    for _ in range(kills):
        mortal.kill()
        assert mortal.start() == 0
        mortal.run()
    assert mortal.settle()

    assert statuses(mortal.frontend.answers()) == {1: OKAY, 2: OKAY}
    assert mortal.counters()["poisoned"] == 0


def test_block_journal_in_hand_at_four_kills_is_poison_and_the_others_live(mortal: Mortal) -> None:
    """A request that gets its worker killed (memory limit) ends too; the ring goes on."""
    mortal.read(1, 2)
    for _ in range(4):
        mortal.kill()
        assert mortal.start() == 0
        mortal.run()
    assert mortal.settle()

    assert statuses(mortal.frontend.answers()) == {1: ERROR, 2: OKAY}


def test_block_journal_left_by_an_orderly_end_is_marked_by_nobody(mortal: Mortal) -> None:
    """Workers that are replaced while the disk hangs: whatever it was at is no poison."""
    mortal.read(1)
    for _ in range(6):
        assert mortal.detach() == -errno.ETIMEDOUT
        mortal.kill()
        assert mortal.start() == 0
        mortal.run()
        assert mortal.queued() == 1
    assert mortal.settle()

    assert mortal.frontend.answers() == [(1, READ, OKAY)]


def test_block_journal_death_before_anything_is_in_hand_marks_nobody(mortal: Mortal) -> None:
    """Workers that die before they touch a request say nothing against it."""
    mortal.read(1)
    mortal.kill(crash=True)
    for _ in range(5):
        assert mortal.start() == 0
        mortal.kill(crash=True)

    assert mortal.start() == 0
    assert mortal.settle()
    assert statuses(mortal.frontend.answers()) == {1: OKAY}
