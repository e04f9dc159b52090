# SPDX-License-Identifier: MIT
"""Requests of the command line: whatever comes gets a reply that the command line can read.

The real reading and dispatching (`supervisor.operator.control`), without what an operation does.
"""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Literal

import msgspec

from shared import control as c
from shared.commands import Command
from shared.errors import ConfigError
from supervisor.operator.commands import read_arguments
from supervisor.operator.control import Control


class _Arguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A field of each kind."""

    number: int = 0
    share: float = 0.0
    flag: bool = False
    text: str | None = None
    word: Literal["a", "b"] = "a"


class _Operations:
    """Looks at what a request names, as the real ones do first, and does nothing."""

    def status(self) -> c.StatusReply:
        """No device."""
        return c.StatusReply(
            version="", pid=1, uptime=0.0, xenstore="", hypervisor="", types={}, devices=[]
        )

    async def show(self, request: c.Show) -> c.ShowReply:
        """There is none."""
        raise ConfigError(f"show: {c.device_of(request)}: no such device")

    def last_events(self, request: c.Events) -> c.EventsReply:
        """None happened."""
        return c.EventsReply(events=[])

    def restart(self, request: c.Restart) -> c.Done:
        """Of the named device."""
        return c.Done(text=str(c.device_of(request)))

    def clear(self, request: c.Clear) -> c.Done:
        """Of the named device."""
        return c.Done(text=str(c.device_of(request)))

    async def restart_rolling(self, request: c.RestartRolling) -> c.Done:
        """Of all."""
        return c.Done(text="")

    async def reload(self) -> c.Done:
        """Nothing changes."""
        return c.Done(text="")

    async def upgrade(self) -> c.Done:
        """Nothing changes."""
        return c.Done(text="")

    def log_level(self, request: c.LogLevel) -> c.Done:
        """Of the named device."""
        return c.Done(text=str(c.device_of(request)))

    def commands(self, request: c.Commands) -> c.CommandsReply:
        """Of the named device."""
        return c.CommandsReply(handler=str(c.device_of(request)), commands=[])

    async def command(self, request: c.Command) -> c.CommandReply:
        """Of the named device, by its own rules for arguments."""
        c.device_of(request)
        read_arguments(_COMMAND, request.arguments)
        return c.CommandReply(value=msgspec.Raw(b'""'))


_COMMAND = Command("set", "any", _Arguments)
_control = Control(Path("/"), _Operations())


def check(untrusted_data: bytes) -> None:
    """One request."""
    reply = _finish(_control._reply_to(untrusted_data))
    again = c.decode_reply(c.encode(reply))
    if isinstance(again, c.Refused):
        assert again.exit_code, "a refusal that the shell takes for success"
        assert "bug in the supervisor" not in again.text


def _finish(coroutine: Coroutine[Any, Any, c.Reply]) -> c.Reply:
    """Run what has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        reply: c.Reply = end.value
        return reply
    raise AssertionError("a request waits")
