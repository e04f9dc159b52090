# SPDX-License-Identifier: MIT
"""Sends many requests at once and awaits them in order, without a task for each.

asyncio's `gather` makes a task of every coroutine. For a directory of twenty nodes that costs more
than the twenty requests; the futures of `session` need no tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from shared.xenstore.errors import XenstoreError

Absent = type[XenstoreError] | tuple[type[XenstoreError], ...]
NEVER: Final[Absent] = ()
"""For callers that take no refusal as an answer."""


async def answers(
    requests: Iterable[asyncio.Future[bytes]], absent: Absent = NEVER
) -> list[bytes | None]:
    """Await all requests; the result is None for each that was refused with `absent`.

    `requests` is exhausted before the first request is awaited, so a generator sends all of them in
    one turn of the loop. Any other refusal is raised, and so is a cancellation. Requests still in
    flight are then given up, which is safe (see `Session.request`).
    """
    futures: list[asyncio.Future[bytes]] = []
    values: list[bytes | None] = []
    try:
        futures.extend(requests)
        for future in futures:
            try:
                values.append(await future)
            except absent:
                values.append(None)
    except BaseException:
        for future in futures[len(values) :]:
            ignore(future)
        raise
    return values


def ignore(future: asyncio.Future[bytes]) -> None:
    """Give up a request; otherwise asyncio complains of an exception that nobody retrieved."""
    if not future.cancel() and not future.cancelled():
        future.exception()
