# SPDX-License-Identifier: MIT
"""`xenbackd serve`: check the configuration, then become the supervisor."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

import msgspec

from supervisor.cli import settings
from supervisor.cli.parsers import add_command

if TYPE_CHECKING:
    from config.model import Config
    from supervisor.cli.parsers import Subparsers

EPILOG = """\
The process stays in the foreground and logs to standard error. SIGTERM stops it in order,
SIGHUP (or xenbackd reload) applies a changed configuration file, SIGUSR2 (or xenbackd upgrade)
replaces the supervisor by the code now installed. If it dies, its workers serve on, and the next
serve takes them over.

examples:
  xenbackd serve -c /etc/xenbackd/xenbackd.yaml
  xenbackd --run-dir /tmp/xb serve -c config/xenbackd.yaml --embedded     without Xen
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the sub-command."""
    parser = add_command(
        subparsers,
        "serve",
        run,
        description="Serve the devices of the configuration, one worker process each.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "--embedded",
        action="store_true",
        help="start the embedded hypervisor as well and serve its guests; stop it at the end",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="load all that is needed, check the configuration, and end; upgrade tries it so",
    )


def run(args: argparse.Namespace) -> int:
    """Run the supervisor until it is told to stop."""
    if args.loaded is None:
        settings.resolve(args, settings.SYSTEM_CONFIG)

    def override(config: Config) -> Config:
        return effective(config, args)

    config = override(args.loaded)
    if args.check:
        from supervisor.upgrade import rehearse

        rehearse(config)
        return 0
    from supervisor.serve import serve

    return int(serve(config, args.config.absolute(), override, args.embedded))


def effective(config: Config, args: argparse.Namespace) -> Config:
    """The configuration with what command line and environment say instead."""
    run_dir, embedded_dir = args.given
    return msgspec.structs.replace(
        config,
        runtime_dir=os.fspath(settings.run_dir(run_dir, config).absolute()),
        # None stays None where nobody says anything, so that a reload sees no difference.
        embedded_dir=os.fspath(embedded_dir.absolute()) if embedded_dir else config.embedded_dir,
        hypervisor="embedded" if args.embedded else config.hypervisor,
    )
