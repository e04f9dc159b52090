# SPDX-License-Identifier: MIT
"""`xenbackd embedded`: the embedded hypervisor and its xenstore server, without a supervisor."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.cli.parsers import add_command

if TYPE_CHECKING:
    from supervisor.cli.parsers import Subparsers

EPILOG = """\
It runs in the foreground until SIGTERM or Ctrl-C and leaves nothing behind. Supervisor and guests
can be stopped and started again beside it:

  xenbackd embedded --dir /tmp/xb/embedded
  xenbackd --run-dir /tmp/xb serve -c xenbackd.yaml        with "hypervisor: embedded"
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the sub-command."""
    parser = add_command(
        subparsers,
        "embedded",
        run,
        description="Run the embedded hypervisor alone: domains, event channels, grants, xenstore.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "--dir",
        metavar="DIR",
        type=Path,
        help='its directory (else --embedded-dir, else "embedded" in the runtime directory)',
    )


def run(args: argparse.Namespace) -> int:
    """Run the embedded hypervisor until it is told to stop."""
    from embedded.host import run as run_host

    directory: Path = args.embedded_dir if args.dir is None else args.dir.absolute()
    return int(run_host(directory))
