# SPDX-License-Identifier: MIT
"""`xenbackd reload`: a changed configuration file for a running supervisor."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from shared import control
from supervisor.cli import output
from supervisor.cli.parsers import add_command

if TYPE_CHECKING:
    from supervisor.cli.parsers import Subparsers

EPILOG = """\
The supervisor reads the file it was started with. With an error in it nothing changes, and the
error is printed here. A type switched on is scanned at once, a type switched off is closed in
order, other devices are not touched.

examples:
  xenbackd reload
  xenbackd check-config /etc/xenbackd/xenbackd.yaml && xenbackd reload
"""

RELOAD_TIMEOUT = 30.0
"""Seconds for the reply."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the sub-command."""
    add_command(
        subparsers,
        "reload",
        run,
        description="Check the configuration file and apply the difference.",
        epilog=EPILOG,
    )


def run(args: argparse.Namespace) -> int:
    """Ask the supervisor and print what it says."""
    from supervisor.cli.client import Client

    with Client(args.run_dir, RELOAD_TIMEOUT) as client:
        done = client.ask(control.Reload(), control.Done)
    output.show([output.Cell(done.text)])
    return 0
