# SPDX-License-Identifier: MIT
"""`xenbackd command`: ask something of one device that its type knows how to do."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from shared import control
from supervisor.cli import output
from supervisor.cli.parsers import add_command, add_device, add_json

if TYPE_CHECKING:
    from supervisor.cli.parsers import Subparsers

EPILOG = """\
Without NAME it lists the commands of the device's type. The worker of the device carries the
command out and replies within the command's time limit. The exit code of a failure says who must
act, as for every command.

examples:
  xenbackd command DEVICE
  xenbackd command DEVICE NAME key=value --json
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the sub-command."""
    parser = add_command(
        subparsers,
        "command",
        run,
        description="Ask something of one device that its type knows how to do.",
        epilog=EPILOG,
    )
    add_device(parser)
    parser.add_argument("name", metavar="NAME", nargs="?", help="a command of the device's type")
    parser.add_argument(
        "arguments", metavar="key=value", nargs="*", type=_pair, help="arguments of the command"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Ask the supervisor and print what the device says, or what can be asked."""
    from shared.commands import COMMAND_SECONDS_MAX
    from supervisor.cli.client import REQUEST_TIMEOUT, Client

    if args.name is None:
        return _list(args)
    # The supervisor ends the wait for a worker that does not answer.
    with Client(args.run_dir, timeout=COMMAND_SECONDS_MAX + REQUEST_TIMEOUT) as client:
        request = control.Command(args.device, args.name, _arguments(args.arguments))
        reply = client.ask(request, control.CommandReply)
    value = _decoded(reply)
    if args.json:
        output.print_json(value)
    else:
        output.show(blocks(value))
    return 0


def _list(args: argparse.Namespace) -> int:
    from supervisor.cli.client import Client

    with Client(args.run_dir) as client:
        reply = client.ask(control.Commands(args.device), control.CommandsReply)
    if args.json:
        output.print_json(reply)
    elif reply.commands:
        output.table("", ["COMMAND", "ARGUMENTS", "MEANING"], list(map(_row, reply.commands)))
    else:
        output.show([output.Cell(f"{args.device}: the type {reply.handler} has no commands")])
    return 0


def blocks(value: Any) -> list[output.Block]:
    """A reply as text: one line, or one for each field."""
    if not isinstance(value, dict):
        return [output.Cell(_shown(value))]
    rows = [[name, _shown(one)] for name, one in value.items()]
    return [output.make_table("", ["", output.Column("", wrap=True)], rows)]


def _row(command: control.CommandAbout) -> list[str]:
    texts = [f"{one.name}=<{one.value}>" for one in command.arguments]
    shown = [
        text if one.required else f"[{text}]"
        for one, text in zip(command.arguments, texts, strict=True)
    ]
    return [command.name, " ".join(shown), command.meaning]


def _shown(value: Any) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=True)


def _decoded(reply: control.CommandReply) -> Any:
    import msgspec

    return msgspec.json.decode(reply.value)


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not key or not separator:
        raise argparse.ArgumentTypeError(f"{text!r}: expected key=value")
    return key, value


def _arguments(pairs: list[tuple[str, str]]) -> dict[str, str]:
    from shared.errors import ConfigError

    arguments = dict(pairs)
    if len(arguments) < len(pairs):
        raise ConfigError("command: an argument is given more than once")
    return arguments
