# SPDX-License-Identifier: MIT
"""The part of QMP that the toolstack needs from the device model of a PV guest.

Protocol: QEMU's docs/interop/qmp-spec. Who asks: libxl 4.17 to 4.19 `query-chardev`, with a vfb
`query-vnc`, with a password for it `change-vnc-password`; with dm_restrict `query-status` and
`cont`; libxenstat (xentop) `query-blockstats` and `query-block`. Anything else gets the
error QEMU gives to a command it does not know. Pure: no I/O, no clock.

A command's arguments are never logged: one of them is a password.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from supervisor.devicemodel.arguments import Arguments
from supervisor.devicemodel.framing import Framer, FramingError

_log = logging.getLogger("device-model")

Json = dict[str, Any] | list[Any]

VERSION: Final = {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": "xenbackd"}
"""libxl picks the spelling of some commands by QEMU's version; this is Debian 12's."""
UNKNOWN_LOGGED_MAX: Final = 32
"""Unknown commands that are logged, so that a client in a loop does not fill the disk."""
NAME_MAX: Final = 64
"""Characters of an unknown command's name that are repeated to whom it concerns."""


class QmpError(Exception):
    """A command failed; `kind` is QEMU's class of the error."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Answers:
    """What all clients of one device model see of the guest."""

    def __init__(self, arguments: Arguments) -> None:
        self._arguments = arguments
        self._status = "prelaunch" if arguments.stopped else "running"
        self._unknown = 0
        self.quit = False
        """A client wants the device model to end."""
        self._commands: dict[str, Callable[[Mapping[str, Any]], Json]] = {
            "change-vnc-password": self._change_vnc_password,
            "cont": self._continue,
            "query-block": _nothing,
            "query-blockstats": _nothing,
            "query-chardev": self._query_chardev,
            "query-commands": self._query_commands,
            "query-name": self._query_name,
            "query-status": self._query_status,
            "query-version": lambda _: dict(VERSION),
            "query-vnc": lambda _: {"enabled": False},
            "quit": self._quit,
        }

    def answer(self, command: str, arguments: Mapping[str, Any]) -> Json:
        """Carry a command out.

        Raises:
            QmpError: it failed.
        """
        function = self._commands.get(command)
        if function is None:
            self._not_found(command)
        if arguments and command != "change-vnc-password":
            raise QmpError("GenericError", f"Parameter {_short(next(iter(arguments)))} unexpected")
        return function(arguments)

    def _not_found(self, untrusted_command: str) -> NoReturn:
        name = _short(untrusted_command)
        self._unknown += 1
        if self._unknown <= UNKNOWN_LOGGED_MAX:
            _log.info("qmp: %s: there is no QEMU that could do it", name)
        raise QmpError("CommandNotFound", f"The command {name} has not been found")

    def _change_vnc_password(self, arguments: Mapping[str, Any]) -> Json:
        # libxl gives up on the guest if this fails. The server of its framebuffer finds the
        # password where libxl has put it as well, in the backend directory.
        if not isinstance(arguments.get("password"), str):
            raise QmpError("GenericError", "Parameter 'password' is missing")
        return {}

    def _continue(self, _arguments: Mapping[str, Any]) -> Json:
        self._status = "running"
        return {}

    def _query_chardev(self, _arguments: Mapping[str, Any]) -> Json:
        return [
            {"label": one.label, "filename": one.filename, "frontend-open": True}
            for one in self._arguments.sockets
        ]

    def _query_commands(self, _arguments: Mapping[str, Any]) -> Json:
        return [{"name": name} for name in sorted({*self._commands, "qmp_capabilities"})]

    def _query_name(self, _arguments: Mapping[str, Any]) -> Json:
        return {"name": self._arguments.name}

    def _query_status(self, _arguments: Mapping[str, Any]) -> Json:
        running = self._status == "running"
        return {"status": self._status, "running": running, "singlestep": False}

    def _quit(self, _arguments: Mapping[str, Any]) -> Json:
        self.quit = True
        return {}


class Session:
    """One client, from the greeting on."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._framer = Framer()
        self._negotiated = False
        self.broken = False
        """Nothing more is understood: send what there is, then hang up."""

    def greeting(self) -> bytes:
        """What a client is met with."""
        return _line({"QMP": {"version": VERSION, "capabilities": []}})

    def feed(self, untrusted_data: bytes) -> bytes:
        """Take in what a client has sent; returns the answers."""
        replies = bytearray()
        try:
            for message in self._framer.feed(untrusted_data):
                replies += self._reply(message)
        except FramingError as error:
            self.broken = True
            replies += _line(_error("GenericError", f"JSON parse error, {error}", None))
        return bytes(replies)

    def _reply(self, untrusted_message: bytes) -> bytes:
        name = None
        try:
            request = _parse(untrusted_message)
            name = request.get("id")
            result = self._execute(request)
        except QmpError as error:
            return _line(_error(error.kind, str(error), name))
        reply: dict[str, Any] = {"return": result}
        return _line(reply if name is None else {**reply, "id": name})

    def _execute(self, request: Mapping[str, Any]) -> Json:
        command = request.get("execute")
        arguments = request.get("arguments", {})
        if not isinstance(command, str):
            raise QmpError("GenericError", "QMP input lacks member 'execute'")
        if not isinstance(arguments, dict):
            raise QmpError("GenericError", "QMP input member 'arguments' must be an object")
        for key in request.keys() - {"execute", "arguments", "id"}:
            raise QmpError("GenericError", f"QMP input member {_short(key)} is unexpected")
        if command == "qmp_capabilities":
            if self._negotiated:
                text = "Capabilities negotiation is already complete, command ignored"
                raise QmpError("CommandNotFound", text)
            if arguments.get("enable"):
                raise QmpError("GenericError", "none of these capabilities is there")
            self._negotiated = True
            return {}
        if not self._negotiated:
            text = "Expecting capabilities negotiation with 'qmp_capabilities'"
            raise QmpError("CommandNotFound", text)
        return self._answers.answer(command, arguments)


def _nothing(_arguments: Mapping[str, Any]) -> Json:
    """Block devices: QEMU has none, they are served by others."""
    return []


def _parse(untrusted_message: bytes) -> dict[str, Any]:
    try:
        value = json.loads(untrusted_message, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError):
        # Also for numbers with thousands of digits and for what is not UTF-8.
        raise QmpError("GenericError", "JSON parse error") from None
    assert isinstance(value, dict)
    return value


def _finite(text: str) -> float:
    """A number that can be given back in an id; 1e999 reads as infinity."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("not JSON")
    return number


def _error(kind: str, text: str, name: object) -> dict[str, Any]:
    reply: dict[str, Any] = {"error": {"class": kind, "desc": text}}
    return reply if name is None else {**reply, "id": name}


def _line(message: Mapping[str, Any]) -> bytes:
    # libxl looks for this line end.
    return json.dumps(message).encode("ascii") + b"\r\n"


def _short(untrusted_text: str) -> str:
    return ascii(untrusted_text[:NAME_MAX])
