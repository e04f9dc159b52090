# SPDX-License-Identifier: MIT
"""`xenbackd status`: all devices at a glance, what has a problem first."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from shared import control
from shared.device_id import DeviceId
from supervisor.cli import figures, output
from supervisor.cli.output import BAD, DIM, GOOD, WARN, Block, Cell, Column
from supervisor.cli.parsers import add_command, add_json
from supervisor.cli.text import duration, plural

if TYPE_CHECKING:
    from supervisor.cli.client import Client
    from supervisor.cli.parsers import Subparsers

EPILOG = """\
columns:
  STATE     xenbus state of the backend; and why no worker is started: backoff (waits before the
            next try), budget (too many restarts of its guest's devices), quarantined (failed too
            often: `xenbackd clear`), config (somebody must change something), guest (its frontend
            broke the protocol and must start again), unkillable (the last worker does not die)
  FRONTEND  xenbus state of the guest's end
  WORKER    process id and phase of the worker; late (no sign of life), slow or stalled (requests
            are pending and none is finished)
  RESTARTS  workers started after the first; in brackets recent failures and the last one's kind
  I/O       requests read/written since the worker started; with --watch per second

examples:
  xenbackd status
  xenbackd status --watch
  xenbackd status --json | jq -r '.devices[] | select(.hold != "") | .device'
"""

INTERVAL = 1.0
"""Seconds between two looks of `--watch`."""

COLUMNS = (
    Column("DEVICE"),
    Column("STATE"),
    Column("FRONTEND"),
    Column("WORKER"),
    Column("RESTARTS", right=True),
    Column("SINCE", right=True),
    Column("I/O", right=True),
    Column("ERROR", wrap=True),
)


def add_parser(subparsers: Subparsers) -> None:
    """Add the sub-command."""
    parser = add_command(
        subparsers,
        "status",
        run,
        description="Print all devices at a glance, those with a problem first.",
        epilog=EPILOG,
    )
    how = parser.add_mutually_exclusive_group()
    add_json(how)
    how.add_argument("--watch", action="store_true", help="show it again each second, until Ctrl-C")


def run(args: argparse.Namespace) -> int:
    """Print the status once, or until Ctrl-C."""
    from supervisor.cli.client import Client

    with Client(args.run_dir) as client:
        if args.watch:
            return watch(client)
        reply = client.ask(control.Status(), control.StatusReply)
    if args.json:
        output.print_json(reply)
    else:
        output.show(blocks(reply))
    return 0


# --- what is printed -------------------------------------------------------------------------


def blocks(reply: control.StatusReply, rates: dict[str, str] | None = None) -> list[Block]:
    """The status as blocks of text; `rates` replaces the I/O column, by device."""
    result: list[Block] = [_supervisor(reply), _summary(reply)]
    if reply.devices:
        devices = sorted(
            reply.devices, key=lambda device: (-severity(device), DeviceId.parse(device.device))
        )
        rows = [
            _row(one, _io(reply, one) if rates is None else rates[one.device]) for one in devices
        ]
        result.append(Cell(""))
        result.append(output.make_table("", COLUMNS, rows))
    return result


def severity(device: control.DeviceStatus) -> int:
    """How much a device needs attention: 2 somebody must act, 1 it is not well, 0 fine."""
    if device.hold in ("quarantined", "config", "guest", "unkillable"):
        return 2
    return 1 if device.hold in ("backoff", "budget") or device.health or device.error else 0


def _supervisor(reply: control.StatusReply) -> Cell:
    well = reply.xenstore == "connected"
    text = (
        f"xenbackd {reply.version}, process {reply.pid}, up {duration(reply.uptime)};"
        f" hypervisor {reply.hypervisor}; xenstore {reply.xenstore}"
    )
    return Cell(text, "" if well else BAD)


def _summary(reply: control.StatusReply) -> Cell:
    types = ", ".join(f"{name} ({handler})" for name, handler in sorted(reply.types.items()))
    counts = Counter(state_text(device) for device in reply.devices)
    parts = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    devices = plural(len(reply.devices), "device")
    text = f"types {types or 'none'}; {devices}{': ' if parts else ''}{parts}"
    worst = max(map(severity, reply.devices), default=0)
    return Cell(text, (GOOD if reply.devices else "", WARN, BAD)[worst])


def state_text(device: control.DeviceStatus) -> str:
    """The backend's state, and what holds the device back."""
    return f"{device.backend} {device.hold}" if device.hold else device.backend


def worker_text(device: control.DeviceStatus) -> str:
    """Process and phase of the worker, and how it does."""
    words = ("" if device.pid is None else str(device.pid), device.phase, device.health)
    return " ".join(filter(None, words))


def _io(reply: control.StatusReply, device: control.DeviceStatus) -> str:
    return figures.totals(reply.counters.get(type_of(device), ()), device.counters)


def type_of(device: control.DeviceStatus) -> str:
    """The type's name in the configuration."""
    return device.device.partition("/")[0]


def _row(device: control.DeviceStatus, io: str) -> list[Cell]:
    style = ("", WARN, BAD)[severity(device)]
    state_style = style or (GOOD if device.backend == "Connected" else "")
    kind = f" {device.last_failure}" if device.last_failure else ""
    failures = f" ({device.failures}{kind})" if device.failures else ""
    return [
        Cell(device.device, style),
        Cell(state_text(device), state_style),
        Cell(device.frontend),
        Cell(worker_text(device), DIM if device.pid is None else WARN if device.health else ""),
        Cell(f"{device.restarts}{failures}", WARN if device.failures else ""),
        Cell(duration(device.since)),
        Cell(io),
        Cell(device.error, style),
    ]


# --- --watch ---------------------------------------------------------------------------------


class Watch:
    """Remembers the last look, to show rates."""

    def __init__(self) -> None:
        self._counters: dict[str, dict[str, int]] = {}
        self._time = 0.0

    def look(self, reply: control.StatusReply, now: float) -> list[Block]:
        """The blocks for a status taken at the monotonic time `now`; the first has no rates."""
        seconds = now - self._time
        rates = {
            one.device: figures.rate_text(
                reply.counters.get(type_of(one), ()),
                self._counters[one.device],
                one.counters,
                seconds,
            )
            if one.device in self._counters
            else ""
            for one in reply.devices
        }
        self._counters = {one.device: one.counters for one in reply.devices}
        self._time = now
        return blocks(reply, rates)


def watch(client: Client) -> int:
    """Show the status each second until Ctrl-C, which is the way to end it (exit code 0)."""
    state = Watch()
    try:
        if sys.stdout.isatty():
            _watch_terminal(client, state)
        else:
            while True:
                output.show([*_look(client, state), Cell("")])
                time.sleep(INTERVAL)
    except KeyboardInterrupt:
        pass
    return 0


def _watch_terminal(client: Client, state: Watch) -> None:
    from rich.console import Group
    from rich.live import Live

    with Live(auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            width = live.console.width
            parts = [output.render(block, width) for block in _look(client, state)]
            live.update(Group(*parts), refresh=True)
            time.sleep(INTERVAL)


def _look(client: Client, state: Watch) -> list[Block]:
    from supervisor.cli.client import UnavailableError

    try:
        reply = client.ask(control.Status(), control.StatusReply)
    except UnavailableError as error:
        return [Cell(str(error), BAD), Cell("Still looking; Ctrl-C ends it.", DIM)]
    return state.look(reply, time.monotonic())
