# SPDX-License-Identifier: MIT
"""`xenbackd restart`: a fresh worker for a device."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from shared import control
from supervisor.cli import output
from supervisor.cli.parsers import add_command, add_device

if TYPE_CHECKING:
    from supervisor.cli.parsers import Subparsers

EPILOG = """\
The guest notices a short pause at most. A device in back-off, or one that waited for a change of
its parameters, is tried again at once. One in quarantine is left there: see `xenbackd clear`.

examples:
  xenbackd restart vbd/3/51712
  xenbackd restart vbd/3/51712 && xenbackd show vbd/3/51712
"""

RESTART_TIMEOUT = 30.0
"""Seconds. The reply may wait for the old worker's orderly end (timeouts.drain)."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the sub-command."""
    parser = add_command(
        subparsers, "restart", run, description="Replace the worker of a device.", epilog=EPILOG
    )
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Ask the supervisor and print what it says."""
    from supervisor.cli.client import Client

    with Client(args.run_dir, RESTART_TIMEOUT) as client:
        done = client.ask(control.Restart(args.device), control.Done)
    output.show([output.Cell(done.text)])
    return 0
