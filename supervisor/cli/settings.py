# SPDX-License-Identifier: MIT
"""Where the command line looks: configuration file, runtime directory, embedded hypervisor.

The runtime directory is, in this order: `--run-dir`, the environment's XENBACKD_RUN_DIR, the
configuration's if one was named by `-c`, `/run/xenbackd` for root, else the user's own. A normal
user cannot write `/run`, so for them the configuration's default means their own directory too.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shared.errors import ConfigError

if TYPE_CHECKING:
    from config.model import Config

SYSTEM_RUN_DIR: Final = Path("/run/xenbackd")
SYSTEM_CONFIG: Final = Path("/etc/xenbackd/xenbackd.yaml")
RUN_DIR_VARIABLE: Final = "XENBACKD_RUN_DIR"


def add_options(parser: argparse.ArgumentParser, *, top: bool = False) -> None:
    """Add the options every command understands, before and after the command's name."""
    # A sub-parser's default would overwrite what stood before the command's name.
    default = None if top else argparse.SUPPRESS
    group = parser.add_argument_group("where to look")
    group.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        type=Path,
        default=default,
        help=f"configuration file (serve: {SYSTEM_CONFIG} if not given)",
    )
    group.add_argument(
        "--run-dir",
        metavar="DIR",
        type=Path,
        default=default,
        help=f"runtime directory (else ${RUN_DIR_VARIABLE}, the configuration's, "
        f"{SYSTEM_RUN_DIR} for root, a directory of the user's)",
    )
    group.add_argument(
        "--embedded-dir",
        metavar="DIR",
        type=Path,
        default=default,
        help='directory of the embedded hypervisor (else "embedded" in the runtime directory)',
    )


def resolve(args: argparse.Namespace, otherwise: Path | None = None) -> None:
    """Find out where to look.

    Sets `args.loaded` (Config or None), `args.run_dir` and `args.embedded_dir` (absolute paths).
    Called again it starts from what the command line gave.

    Args:
        args: the parsed command line.
        otherwise: the configuration file if none was named.

    Raises:
        ConfigError: the configuration file cannot be used.
    """
    if not hasattr(args, "given"):
        args.given = (args.run_dir, args.embedded_dir)
    given, embedded_dir = args.given
    args.config = args.config or otherwise
    args.loaded = load_config(args.config) if args.config is not None else None
    args.run_dir = run_dir(given, args.loaded).absolute()
    if embedded_dir is None and args.loaded is not None and args.loaded.embedded_dir:
        embedded_dir = Path(args.loaded.embedded_dir)
    args.embedded_dir = (embedded_dir or args.run_dir / "embedded").absolute()


def load_config(path: Path) -> Config:
    """Load a configuration file.

    Raises:
        ConfigError: it cannot be used; the text names every problem.
    """
    # Here, because a `status` without -c needs neither YAML nor the models.
    from config.errors import ConfigFileError
    from config.loader import load

    try:
        return load(path)
    except ConfigFileError as error:
        raise ConfigError(str(error)) from error


def run_dir(given: Path | None, config: Config | None) -> Path:
    """The runtime directory, in the order the module tells; `given` is the command line's."""
    if given is not None:
        return given
    if named := os.environ.get(RUN_DIR_VARIABLE):
        return Path(named)
    wanted = Path(config.runtime_dir) if config is not None else SYSTEM_RUN_DIR
    if wanted == SYSTEM_RUN_DIR and os.geteuid() != 0:
        return user_run_dir()
    return wanted


def user_run_dir() -> Path:
    """The runtime directory of a user who is not root."""
    if base := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(base) / "xenbackd"
    return Path(f"/tmp/xenbackd-{os.geteuid()}")  # noqa: S108 (its owner is checked before use)
