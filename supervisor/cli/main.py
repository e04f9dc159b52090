# SPDX-License-Identifier: MIT
"""The command `xenbackd`: finds the sub-command, runs it, turns errors into exit codes.

Only the module of the sub-command asked for is imported: `xenbackd status` in a loop must be
cheap. A command's module has `add_parser(subparsers)`, which sets the parser's default `run` to a
function of the parsed arguments that returns the exit code.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

from shared.errors import BlamedError, ConfigError
from supervisor.cli import output, settings
from supervisor.cli.commands import COMMANDS

EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
"""128 + SIGINT, as shells count."""
EXIT_PIPE: Final = 141
"""128 + SIGPIPE: who read our output does not want more."""


EPILOG: Final = """\
DEVICE is TYPE/DOMID/DEVID as `xenbackd status` prints it.

try it without Xen:
  xenbackd --run-dir /tmp/xb serve -c xenbackd.yaml --embedded
  xenbackd --run-dir /tmp/xb guest create demo --disk disk.img
  xenbackd --run-dir /tmp/xb status --watch

exit codes:
  0   done; or the answer is yes
  1   the answer is no (doctor: something is missing), or an error of no other kind
  2   wrong usage of the command line
  69  no supervisor is running, or it does not answer
  70  an error in xenbackd itself: please report it
  75  the host failed: storage, memory, a daemon that is away; may work later
  76  a guest broke the protocol of its device
  78  the configuration or a parameter is wrong: somebody must change it
"""

_OPTIONS_WITH_VALUE: Final = frozenset({"-c", "--config", "--run-dir", "--embedded-dir"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; `argv` without the program's name. Returns the exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        args = build_parser(command_in(arguments)).parse_args(arguments)
        if not hasattr(args, "run"):
            build_parser(None).print_help()
            return EXIT_USAGE
        settings.resolve(args)
        return int(args.run(args))
    except BrokenPipeError:
        # Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BlamedError as error:
        return output.fail(str(error), _hint(error), error.exit_code)
    except Exception as error:
        # Of the client; not imported above, because not every command talks to a supervisor.
        from supervisor.cli.client import EXIT_UNAVAILABLE, RefusedError, UnavailableError

        if isinstance(error, UnavailableError):
            return output.fail(str(error), error.hint, EXIT_UNAVAILABLE)
        if isinstance(error, RefusedError):
            return output.fail(str(error), "", error.exit_code)
        raise


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """The parser, with the options of one command; of the others it knows the names."""
    parser = argparse.ArgumentParser(
        prog="xenbackd",
        description="Serves Xen paravirtual devices from user space, one isolated worker process "
        "per device.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    settings.add_options(parser, top=True)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for name, (module, summary) in COMMANDS.items():
        if name == command:
            importlib.import_module(f"supervisor.cli.{module}").add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=summary, add_help=False)
    return parser


def command_in(arguments: Sequence[str]) -> str | None:
    """The command's name among the arguments: the first that is no option nor its value."""
    rest = iter(arguments)
    for argument in rest:
        if argument in _OPTIONS_WITH_VALUE:
            next(rest, None)
        elif not argument.startswith("-"):
            return argument
    return None


def _hint(error: BlamedError) -> str:
    if isinstance(error, ConfigError):
        return ""
    return {
        70: "This is an error in xenbackd: please report it, with the log.",
        75: "xenbackd doctor tells what this host lacks.",
    }.get(error.exit_code, "")


class _Version(argparse.Action):
    """`--version`, which looks the version up only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        from shared.version import version

        sys.stdout.write(f"xenbackd {version()}\n")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
