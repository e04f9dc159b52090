# SPDX-License-Identifier: MIT
"""Carries out the commands of a device's manifest, and keeps their answers until they are taken.

No answer holds up the ring: one that cannot be sent now waits for the next beat. Their number is
bounded by the supervisor, which has only a few commands under way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from shared.commands import Command
from shared.errors import BackendBug, BlamedError, ConfigError, HostError
from shared.messages import COMMAND_REPLY_MAX, TEXT_MAX, CommandAnswer, Message
from shared.messages import Command as Order
from worker.device import Device


class Offering(Protocol):
    """`worker.bus.Bus`, as seen from here."""

    def offer(self, kind: type[Message], **fields: Any) -> bool:
        """Send a message if it can be sent now; return whether it was sent."""


class Commands:
    """Those of one device."""

    def __init__(self, device: Device, commands: Iterable[Command], bus: Offering) -> None:
        self._device = device
        self._commands = {one.name: one for one in commands}
        self._bus = bus
        self._answers: deque[dict[str, Any]] = deque()

    def obey(self, order: Order, *, ready: bool) -> None:
        """Carry out one command and answer it; `ready`: the device can be asked something."""
        answer: dict[str, Any] = {"number": order.number}
        try:
            answer["reply"] = self._reply(order, ready)
        except BlamedError as error:
            answer |= {"blame": error.blame, "text": str(error)[:TEXT_MAX]}
        self._answers.append(answer)
        self.tell()

    def tell(self) -> None:
        """Send the answers, as many as can be sent now."""
        while self._answers and self._bus.offer(CommandAnswer, **self._answers[0]):
            self._answers.popleft()

    def forget(self) -> None:
        """Another supervisor listens, which has asked for nothing yet."""
        self._answers.clear()

    def _reply(self, order: Order, ready: bool) -> bytes:
        device = self._device
        if not ready:
            raise HostError("the device is neither ready nor serves")
        command = self._commands.get(order.name)
        if command is None:
            # The supervisor was upgraded, and this worker is of the code before.
            raise ConfigError("its worker does not know the command; `xenbackd restart` mends that")
        try:
            arguments = msgspec.msgpack.decode(order.arguments, type=command.arguments)
        except msgspec.MsgspecError as error:
            raise BackendBug(f"command: {device.device}: {order.name}: {error}") from error
        reply = device.command(order.name, arguments)
        if not isinstance(reply, command.reply):
            said = f"{type(reply).__name__} instead of {command.reply.__name__}"
            raise BackendBug(f"command: {device.device}: {order.name}: reply: {said}")
        encoded = msgspec.msgpack.encode(reply)
        if len(encoded) > COMMAND_REPLY_MAX:
            text = f"reply of {len(encoded)} bytes: at most {COMMAND_REPLY_MAX}"
            raise BackendBug(f"command: {device.device}: {order.name}: {text}")
        return encoded
