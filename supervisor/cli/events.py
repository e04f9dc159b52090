# SPDX-License-Identifier: MIT
"""`xenbackd events`: what happened lately, and what happens."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from shared import control
from shared.control import Event
from supervisor.cli import output
from supervisor.cli.parsers import add_command, add_json

if TYPE_CHECKING:
    from supervisor.cli.client import Client
    from supervisor.cli.parsers import Subparsers

EPILOG = """\
With --follow each event is printed as it happens, until Ctrl-C; it ends with exit code 69 when the
supervisor goes away. With --json each event is one line.

examples:
  xenbackd events -n 20
  xenbackd events --follow --json | jq -r 'select(.kind == "error") | .text'
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the sub-command."""
    parser = add_command(
        subparsers,
        "events",
        run,
        description="Print what happened lately, oldest first.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "-n", "--count", metavar="N", type=_count, default=50, help="how many (default 50)"
    )
    parser.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C")
    add_json(parser)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Print the last events; go on if asked to."""
    from supervisor.cli.client import Client

    with Client(args.run_dir) as client:
        if args.follow:
            return _follow(client, args.count, args.json)
        events = client.ask(control.Events(args.count), control.EventsReply).events
    show(events, args.json)
    return 0


def show(events: Sequence[Event], as_json: bool) -> None:
    """Print events, one line each."""
    if as_json:
        for event in events:
            output.print_json_line(event)
    elif events:
        # Fixed widths, so that lines printed one by one stand below each other.
        output.show([output.Cell(line(event)) for event in events])


def line(event: Event) -> str:
    """An event as a line."""
    return f"{event.time}  {event.kind:<12}  {event.device or '-':<16}  {event.text}"


def _follow(client: Client, count: int, as_json: bool) -> int:
    # Subscribed before the last ones are asked for, so that none falls between.
    stream = client.follow()
    try:
        events = client.ask(control.Events(count), control.EventsReply).events
        show(events, as_json)
        seen = events[-1].seq if events else None
        for event in stream:
            news = unseen(client, event, seen)
            show(news, as_json)
            seen = event.seq if seen is None else max(seen, event.seq)
    except KeyboardInterrupt:
        return 0
    finally:
        stream.close()
    return 0


def unseen(client: Client, event: Event, seen: int | None) -> list[Event]:
    """The event with those before it that the stream lost; none if it was printed already."""
    if seen is None or event.seq == seen + 1:
        return [event]
    if event.seq <= seen:
        return []
    missing = event.seq - seen - 1
    asked = client.ask(control.Events(missing + 1), control.EventsReply).events
    return [one for one in asked if seen < one.seq < event.seq] + [event]
