# SPDX-License-Identifier: MIT
"""`xenbackd check-config`: what is wrong with a configuration file, without a supervisor."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from config.rules import remarks
from supervisor.cli import output, settings
from supervisor.cli.parsers import add_command
from supervisor.cli.text import plural

if TYPE_CHECKING:
    from supervisor.cli.parsers import Subparsers

EPILOG = """\
Every problem is a line FILE:LINE: KEY: what is wrong and what is allowed. Exit code 0 if the file
can be used, 78 if not. Nothing of the host is looked at: for that there is xenbackd doctor.

examples:
  xenbackd check-config /etc/xenbackd/xenbackd.yaml
  ssh host xenbackd check-config /dev/stdin < xenbackd.yaml
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the sub-command."""
    parser = add_command(
        subparsers,
        "check-config",
        run,
        description="Say what is wrong with a configuration file.",
        epilog=EPILOG,
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the YAML file")


def run(args: argparse.Namespace) -> int:
    """Load the file and say what it enables; a ConfigError ends it otherwise."""
    config = settings.load_config(args.file)
    enabled = [
        f"{name} ({one.handler})" for name, one in sorted(config.types.items()) if one.enabled
    ]
    disabled = [name for name, one in sorted(config.types.items()) if not one.enabled]
    lines = [f"{args.file}: can be used"]
    lines.append(
        f"{plural(len(enabled), 'type')} enabled: {', '.join(enabled)}"
        if enabled
        else "no type is enabled: nothing would be served"
    )
    if disabled:
        lines.append(f"disabled: {', '.join(disabled)}")
    cells = [output.Cell(line) for line in lines]
    cells += [output.Cell(f"note: {key}: {text}", output.WARN) for key, text in remarks(config)]
    output.show(cells)
    return 0
