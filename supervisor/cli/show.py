# SPDX-License-Identifier: MIT
"""`xenbackd show`: everything about one device.

The nodes of the frontend are the guest's own words; they are printed escaped.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from shared import control
from supervisor.cli import figures, output
from supervisor.cli.output import BAD, WARN, Block, Cell, Column
from supervisor.cli.parsers import add_command, add_device, add_json
from supervisor.cli.text import duration

if TYPE_CHECKING:
    from supervisor.cli.parsers import Subparsers

EPILOG = """\
examples:
  xenbackd show DEVICE
  xenbackd show DEVICE --json | jq .device.counters
"""

_PAIR: Final = (Column(""), Column("", wrap=True))


def add_parser(subparsers: Subparsers) -> None:
    """Add the sub-command."""
    parser = add_command(
        subparsers,
        "show",
        run,
        description="Print everything about one device: states, nodes, counters, last events.",
        epilog=EPILOG,
    )
    add_device(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print one device."""
    from supervisor.cli.client import Client

    with Client(args.run_dir) as client:
        reply = client.ask(control.Show(args.device), control.ShowReply)
    if args.json:
        output.print_json(reply)
    else:
        output.show(blocks(reply))
    return 0


def blocks(reply: control.ShowReply) -> list[Block]:
    """The device as blocks of text."""
    result: list[Block] = [output.make_table("", _PAIR, _facts(reply))]
    for title, nodes in (
        ("backend nodes", reply.backend_nodes),
        ("frontend nodes (written by the guest)", reply.frontend_nodes),
    ):
        rows = [[f"  {name}", value or "(empty)"] for name, value in sorted(nodes.items())]
        result += [Cell(""), output.make_table(title, _PAIR, rows or [["  none", ""]])]
    result += _jail(reply.device) + _counters(reply)
    if reply.events:
        rows = [[f"  {one.time}", f"{one.kind}  {one.text}"] for one in reply.events]
        result += [Cell(""), output.make_table("last events", _PAIR, rows)]
    return result


def _facts(reply: control.ShowReply) -> list[list[str | Cell]]:
    device = reply.device
    last = f", the last one: {device.last_failure}" if device.last_failure else ""
    rows: list[list[str | Cell]] = [
        ["device", Cell(device.device, "bold")],
        ["backend", f"{device.backend} for {duration(device.since)}  {reply.backend_path}"],
        ["frontend", f"{device.frontend}  {reply.frontend_path}"],
        ["online", "yes" if device.online else "no (is being unplugged)"],
        ["worker", _worker(device)],
        ["restarts", f"{device.restarts}, recent failures {device.failures}{last}"],
    ]
    if device.health:
        rows.append(["health", Cell(_HEALTH.get(device.health, device.health), WARN)])
    if device.hold:
        rows.append(["held back", Cell(_HOLDS.get(device.hold, device.hold), BAD)])
    if device.error:
        rows.append(["last error", Cell(device.error, BAD if device.hold else WARN)])
    return rows


_HOLDS: Final = {
    "backoff": "backoff: waits before the next start of a worker",
    "budget": "budget: too many restarts of its guest's devices, or of all; waits for its turn",
    "quarantined": "quarantined: failed too often or too badly; `xenbackd clear DEVICE` ends that",
    "config": "config: the operator must change something; then, or after `xenbackd restart"
    " DEVICE`, it is tried again",
    "guest": "guest: the frontend broke the protocol; it must close and start again",
    "unkillable": "unkillable: its worker does not die of SIGKILL (storage that does not answer?);"
    " nothing else serves the device until it does",
    "disabled": "disabled: the type is switched off in the configuration",
}

_HEALTH: Final = {
    "late": "late: gives no sign of life; is killed if that goes on",
    "slow": "slow: requests are pending and none was finished for a while; look at the storage",
    "stalled": "stalled: requests are pending and none was finished for long; look at the storage",
}


def _worker(device: control.DeviceStatus) -> str:
    process = "" if device.pid is None else f"process {device.pid}, "
    return f"{process}{device.phase}, generation {device.generation}"


def _jail(device: control.DeviceStatus) -> list[Block]:
    rows: list[list[str | Cell]] = [["  done", step] for step in device.jail]
    rows += [["  left out", Cell(step, WARN)] for step in device.jail_left_out]
    if not rows:
        return []
    return [Cell(""), output.make_table("jail of the worker, as it says", _PAIR, rows)]


def _counters(reply: control.ShowReply) -> list[Block]:
    rows: list[list[str | Cell]] = [
        [f"  {title}", shown]
        for title, shown in figures.lines(reply.counters, reply.device.counters)
    ]
    if not rows:
        return []
    return [Cell(""), output.make_table("counters since the worker started", _PAIR, rows)]
