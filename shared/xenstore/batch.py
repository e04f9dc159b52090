# SPDX-License-Identifier: MIT
"""Many requests of one kind at once: sent together, awaited in order, without a task for each.

asyncio's `gather` makes a task of every coroutine it is given. For a directory of twenty nodes
that costs more than the twenty requests themselves; the futures of `session` need none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from shared.xenstore.errors import XenstoreError

Absent = type[XenstoreError] | tuple[type[XenstoreError], ...]
NEVER: Final[Absent] = ()
"""No refusal counts as an answer."""


async def answers(
    requests: Iterable[asyncio.Future[bytes]], absent: Absent = NEVER
) -> list[bytes | None]:
    """Await requests, None for each whose answer is the refusal `absent`.

    `requests` is drawn to its end before the first is awaited, so that a generator sends them all
    in one turn of the loop. Any other refusal is raised, and so is a cancellation; what is still
    in flight then is given up, which is safe (see `Session.request`).
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
    """Give a request up; asyncio complains of an exception that nobody took."""
    if not future.cancel() and not future.cancelled():
        future.exception()
