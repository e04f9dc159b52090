# SPDX-License-Identifier: MIT
"""`xenbackd restart`: a fresh worker for a device, or for many one after the other."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from shared import control
from shared.device_id import DeviceId
from shared.errors import ConfigError
from supervisor.cli import output
from supervisor.cli.parsers import add_command

if TYPE_CHECKING:
    from supervisor.cli.parsers import Subparsers

EPILOG = """\
The guest notices a short pause at most. A device in back-off, or one that waited for a change of
its parameters, is tried again at once. One in quarantine is left there: see `xenbackd clear`.

With --rolling the workers of all devices, or of the types and devices named, are replaced one
after the other: each answers what is in flight and hands the ring to its successor. The first one
that fails stops it. Devices without a worker in service are left out.

examples:
  xenbackd restart DEVICE
  xenbackd restart --rolling
  xenbackd restart --rolling --parallel 4 TYPE DEVICE
"""

RESTART_TIMEOUT = 30.0
"""Seconds. The reply may wait for the old worker's orderly end (timeouts.drain)."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the sub-command."""
    parser = add_command(
        subparsers, "restart", run, description="Replace workers by fresh ones.", epilog=EPILOG
    )
    parser.add_argument("--rolling", action="store_true", help="many workers, one after the other")
    parser.add_argument(
        "--parallel", type=int, default=1, metavar="N", help="with --rolling: N at one time"
    )
    parser.add_argument(
        "targets",
        nargs="*",
        metavar="DEVICE",
        help="TYPE/DOMID/DEVID; with --rolling any number of them, types too",
    )


def run(args: argparse.Namespace) -> int:
    """Ask the supervisor and print what it says."""
    from supervisor.cli.client import Client

    with Client(args.run_dir, RESTART_TIMEOUT) as client:
        if args.rolling:
            request = control.RestartRolling(args.targets, args.parallel)
            done = client.ask(request, control.Done, patient=True)
        elif len(args.targets) == 1:
            device = str(DeviceId.parse(args.targets[0]))
            done = client.ask(control.Restart(device), control.Done)
        else:
            raise ConfigError("restart: one DEVICE, or --rolling for many")
    output.show([output.Cell(done.text)])
    return 0
