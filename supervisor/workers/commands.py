# SPDX-License-Identifier: MIT
"""Commands of the operator that one device's worker carries out, while somebody waits for each.

A worker owes an answer and nothing else. One that gives none costs its asker the time limit;
it is not ended for it, because its beats tell whether it lives, and its guest may be served well.
A late answer is thrown away. Until it comes, the command counts as under way: so at most
`UNANSWERED_MAX` of them wait in a worker's queue, which orders and changed nodes need too.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from typing import Final

from shared import messages as m
from shared.commands import Command
from shared.device_id import DeviceId
from shared.errors import Blame, HostError, blamed
from shared.untrusted import neutral
from supervisor.workers.words import Outcome, Words

UNANSWERED_MAX: Final = 4
"""Commands under way per worker, counting those that were given up."""


class Commands:
    """Of one device's worker, and of its successors. `tell` sends a message, or returns False."""

    def __init__(self, device: DeviceId, words: Words, tell: Callable[..., bool]) -> None:
        self._device = device
        self._words = words
        self._tell = tell
        # An adopted worker may still answer what an earlier supervisor asked.
        self._numbers = itertools.count(random.getrandbits(48))
        self._waiting: dict[int, asyncio.Future[Outcome]] = {}

    async def ask(self, command: Command, arguments: bytes) -> bytes:
        """Send a command and wait for its answer; the reply as JSON.

        Raises:
            HostError: the worker takes no command, does not answer in time, or ends.
            BlamedError: what the worker says.
        """
        what = f"command: {self._device}: {command.name}"
        if self._words.unanswered >= UNANSWERED_MAX:
            raise HostError(f"{what}: busy: {UNANSWERED_MAX} commands are not answered yet")
        number = next(self._numbers)
        if not self._tell(m.Command, number=number, name=command.name, arguments=arguments):
            raise HostError(f"{what}: its worker does not take messages")
        self._words.commanded(number, command)
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            async with asyncio.timeout(command.seconds):
                outcome = await future
        except TimeoutError as error:
            raise HostError(f"{what}: no answer within {command.seconds:g} s") from error
        finally:
            del self._waiting[number]
        if outcome.blame is not None:
            raise blamed(outcome.blame, f"{what}: {neutral(outcome.text)}")
        return outcome.reply

    def answered(self, outcome: Outcome) -> None:
        """Take what came of a command; if nobody waits for it any more, nothing happens."""
        future = self._waiting.get(outcome.number)
        if future is not None and not future.done():
            future.set_result(outcome)

    def over(self) -> None:
        """The worker is dead: it answers nothing more."""
        for number, future in self._waiting.items():
            if not future.done():
                future.set_result(Outcome(number, blame=Blame.HOST, text="its worker has ended"))
