# SPDX-License-Identifier: MIT
"""What the sub-commands' parsers have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from shared.device_id import DeviceId
from shared.errors import ConfigError
from supervisor.cli import settings
from supervisor.cli.commands import COMMANDS

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_command(
    subparsers: Subparsers,
    name: str,
    run: Callable[[argparse.Namespace], int],
    *,
    description: str,
    epilog: str,
) -> argparse.ArgumentParser:
    """Add a sub-command with its help and the options every command has."""
    parser = subparsers.add_parser(
        name,
        help=COMMANDS[name].summary,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    settings.add_options(parser)
    parser.set_defaults(run=run)
    return parser


def add_json(parser: argparse._ActionsContainer) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the argument DEVICE; `args.device` is its checked text."""
    parser.add_argument("device", metavar="DEVICE", type=_device, help="TYPE/DOMID/DEVID")


def _device(text: str) -> str:
    try:
        return str(DeviceId.parse(text))
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
