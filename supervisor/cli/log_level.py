# SPDX-License-Identifier: MIT
"""`xenbackd log-level`: the log level of one device, while it runs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, get_args

from shared import control
from supervisor.cli import output
from supervisor.cli.parsers import add_command, add_device

if TYPE_CHECKING:
    from supervisor.cli.parsers import Subparsers

EPILOG = """\
It holds until the supervisor ends; for good, set types.TYPE.log_level in the configuration.

examples:
  xenbackd log-level DEVICE debug
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the sub-command."""
    from config.model import Level

    parser = add_command(
        subparsers,
        "log-level",
        run,
        description="Change the log level of one device while it runs.",
        epilog=EPILOG,
    )
    add_device(parser)
    parser.add_argument("level", choices=get_args(Level), help="the new level")


def run(args: argparse.Namespace) -> int:
    """Ask the supervisor and print what it says."""
    from supervisor.cli.client import Client

    with Client(args.run_dir) as client:
        done = client.ask(control.LogLevel(args.device, args.level), control.Done)
    output.show([output.Cell(done.text)])
    return 0
