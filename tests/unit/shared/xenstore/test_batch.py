# SPDX-License-Identifier: MIT
"""Requests asked for together, against futures that the test answers."""

from __future__ import annotations

import asyncio

import pytest

from shared.xenstore.batch import answers
from shared.xenstore.errors import AccessDeniedError, NoEntryError

MISSING = NoEntryError("read", "/b", "ENOENT")
DENIED = AccessDeniedError("read", "/b", "EACCES")


def test_answers_refusal_that_counts_as_absent_is_none() -> None:
    """Values come in the order of the requests, None where there is no node."""

    async def scenario() -> list[bytes | None]:
        futures = [asyncio.get_running_loop().create_future() for _ in range(3)]
        futures[2].set_result(b"c")
        futures[1].set_exception(MISSING)
        futures[0].set_result(b"a")
        return await answers(iter(futures), NoEntryError)

    assert asyncio.run(scenario()) == [b"a", None, b"c"]


def test_answers_other_refusal_gives_the_rest_up() -> None:
    """The first real error is raised, later ones pass silently, nothing is waited for any more."""

    async def scenario() -> bool:
        futures = [asyncio.get_running_loop().create_future() for _ in range(3)]
        futures[0].set_exception(DENIED)
        futures[1].set_exception(MISSING)
        with pytest.raises(AccessDeniedError):
            await answers(iter(futures), NoEntryError)
        return futures[2].cancelled()

    assert asyncio.run(scenario())


def test_answers_cancelled_gives_all_up() -> None:
    """Whoever stops waiting stops waiting for every request."""

    async def scenario() -> list[bool]:
        futures = [asyncio.get_running_loop().create_future() for _ in range(2)]
        task = asyncio.ensure_future(answers(iter(futures)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return [future.cancelled() for future in futures]

    assert asyncio.run(scenario()) == [True, True]
