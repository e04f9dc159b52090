# SPDX-License-Identifier: MIT
"""What a request costs the worker's thread, with the journal and in ring order, by its CPU clock.

The backend alone, in this process, on one thread: 32 random reads of 4 KiB are put into the ring,
one call serves them, and only that call is timed. Guest memory and disk are memory. So what other
processes do to wake-ups and caches is mostly left out, and a difference of nanoseconds shows.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from typing import Final

from tests.fakes.block.blk import READ, bench

DEPTH: Final = 32
BATCHES: Final = 400
"""Calls in one sample."""
SIZE: Final = 8 << 20


def sample(journal: int, image: int) -> float:
    """Nanoseconds per request."""
    spent = 0
    numbers = random.Random(1)
    with bench(fd=image, persistent=True, attach=False, sectors=SIZE // 512) as it:
        file = os.memfd_create("journal")
        try:
            assert it.attach(persistent=True, journal_fd=file, journal=journal) == 0
            for _ in range(BATCHES):
                for ident in range(DEPTH):
                    sector = numbers.randrange(SIZE // 4096) * 8
                    it.frontend.put(READ, ident, sector, [(100 + ident, 0, 7)])
                it.frontend.push()
                before = time.thread_time_ns()
                it.run()
                spent += time.thread_time_ns() - before
                assert len(it.frontend.answers()) == DEPTH
            assert it.detach() == 0
        finally:
            os.close(file)
    return spent / BATCHES / DEPTH


def measure(rounds: int) -> tuple[float, float, float]:
    """Medians with the journal and without, and the median of the ratios round by round."""
    image = os.memfd_create("image")
    os.ftruncate(image, SIZE)
    os.pwrite(image, bytes(SIZE), 0)
    try:
        pairs = []
        for number in range(rounds):
            order = (1, 0) if number % 2 == 0 else (0, 1)
            found = {journal: sample(journal, image) for journal in order}
            pairs.append((found[1], found[0]))
    finally:
        os.close(image)
    ours, theirs = zip(*pairs, strict=True)
    ratio = statistics.median(a / b for a, b in pairs)
    return statistics.median(ours), statistics.median(theirs), ratio
