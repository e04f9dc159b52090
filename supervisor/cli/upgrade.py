# SPDX-License-Identifier: MIT
"""`xenbackd upgrade`: the supervisor replaces itself by the installed code."""

from __future__ import annotations

import argparse
import select
import time
from typing import TYPE_CHECKING, Final

from shared import control
from supervisor.cli import output
from supervisor.cli.parsers import add_command

if TYPE_CHECKING:
    from supervisor.cli.client import Client
    from supervisor.cli.parsers import Subparsers

EPILOG = """\
The new code first loads everything and checks the configuration file in a process of its own. If
that fails nothing has changed, and the cause is printed here. The process id stays the same;
workers serve on and are taken over. They run the code they were started with until they are
replaced: xenbackd restart --rolling.

examples:
  xenbackd upgrade
  xenbackd upgrade && xenbackd restart --rolling
"""

CHECK_TIMEOUT: Final = 90.0
"""Seconds for the reply, which comes when the new code has been checked."""

START_TIMEOUT: Final = 60.0
"""Seconds until the new image answers; a loaded machine takes a few."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the sub-command."""
    add_command(
        subparsers,
        "upgrade",
        run,
        description="Replace the supervisor in place by the code now installed.",
        epilog=EPILOG,
    )


def run(args: argparse.Namespace) -> int:
    """Ask for it and wait until the new image answers."""
    from supervisor.cli.client import Client

    with Client(args.run_dir, CHECK_TIMEOUT) as client:
        before = client.ask(control.Status(), control.StatusReply)
        client.ask(control.Upgrade(), control.Done)
    with Client(args.run_dir) as client:
        after = _wait_for(client, before)
    text = f"upgraded: {before.version} -> {after.version}, process {after.pid}"
    output.show([output.Cell(text)])
    return 0


def _wait_for(client: Client, before: control.StatusReply) -> control.StatusReply:
    from supervisor.cli.client import UnavailableError

    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            after = client.ask(control.Status(), control.StatusReply)
            if (after.pid, after.upgrades) != (before.pid, before.upgrades):
                return after
        except UnavailableError:
            if time.monotonic() > deadline:
                raise
        if time.monotonic() > deadline:
            raise UnavailableError(
                "the supervisor was not replaced", "Its log says why; it serves on."
            )
        # A socket that is about to be bound has nothing to wait for.
        select.select([], [], [], 0.05)
