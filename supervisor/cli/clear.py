# SPDX-License-Identifier: MIT
"""`xenbackd clear`: end a quarantine."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from shared import control
from supervisor.cli import output
from supervisor.cli.parsers import add_command, add_device

if TYPE_CHECKING:
    from supervisor.cli.parsers import Subparsers

EPILOG = """\
A device is in quarantine after too many failures, after too many protocol faults of its guest, or
after one forbidden system call. `xenbackd show DEVICE` says why. This ends it: failures are
forgotten and a worker is started at once. Back-off, the restart budget and a wait for a change of
the configuration end too. A worker that runs is left alone.

examples:
  xenbackd clear DEVICE
  xenbackd status --json | jq -r '.devices[] | select(.hold == "quarantined") | .device'
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the sub-command."""
    parser = add_command(
        subparsers,
        "clear",
        run,
        description="Let a device out of quarantine and forget its failures.",
        epilog=EPILOG,
    )
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Ask the supervisor and print what it says."""
    from supervisor.cli.client import Client

    with Client(args.run_dir) as client:
        done = client.ask(control.Clear(args.device), control.Done)
    output.show([output.Cell(done.text)])
    return 0
