# SPDX-License-Identifier: MIT
"""`xenbackd guest`: guests of the embedded hypervisor, from making one to what their devices do.

A guest is a process of its own that lives on when the command has ended. It needs an embedded
hypervisor (`serve --embedded` or `embedded`) and, to get its devices connected, a supervisor.
What there is to say of a device and to do with it comes from its type's guest side: options of
`create` and `attach`, columns of the tables, further sub-commands.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from embedded.guest.side import PROTOCOLS, Command, GuestSide
from embedded.guest.sides import guest_sides
from shared.errors import ConfigError
from supervisor.cli import output, settings
from supervisor.cli.console import OutputConsole
from supervisor.cli.parsers import add_command, add_json
from supervisor.cli.text import plural

if TYPE_CHECKING:
    from embedded.guest.control import GuestDevice
    from embedded.guest.launch import GuestHandle
    from embedded.toolstack import NewDevice
    from supervisor.cli.parsers import Subparsers

EPILOG = """\
NAME is the guest's name or domain id.
"""
CONNECT_TIMEOUT = 20.0
"""Seconds for a guest's devices to become connected unless --timeout says otherwise."""

_CONSOLE = OutputConsole()
_ABI = "-abi"

Run = Callable[[argparse.Namespace], int]
Sides = Mapping[str, GuestSide]


def add_parser(subparsers: Subparsers) -> None:
    """Add the sub-command and its own sub-commands."""
    sides = guest_sides()
    parser = add_command(
        subparsers,
        "guest",
        lambda args: _usage(parser),
        description="Guests of the embedded hypervisor: create, list, change, load, destroy.",
        epilog="\n".join([EPILOG, *(side.epilog for side in sides.values() if side.epilog)]),
    )
    parser.set_defaults(sides=sides)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="guest_command")
    _add_create(commands, sides)
    add_json(_add(commands, "list", _list, "all guests and their devices"))
    _named(_add(commands, "destroy", _destroy, "close its devices and end it"))
    attach = _named(_add(commands, "attach", _attach, "attach devices while it runs"))
    _timeout(attach)
    _device_options(attach, sides)
    attach.set_defaults(usage_error=attach.error)
    detach = _named(_add(commands, "detach", _detach, "detach a device while it runs"))
    detach.add_argument(
        "device", metavar="DEVICE", help="its name in the guest, its number, or KIND/NAME"
    )
    reboot = _named(_add(commands, "reboot", _reboot, "close its devices and connect them again"))
    reboot.add_argument("--crash", action="store_true", help="without closing, as a kernel crash")
    _timeout(reboot)
    for command in [command for side in sides.values() for command in side.commands]:
        _add_of_type(commands, command)


def _add_create(commands: Subparsers, sides: Sides) -> None:
    create = _named(_add(commands, "create", _create, "make a guest, wait for its devices"))
    create.add_argument(
        "--memory", type=_memory, default=64, metavar="MIB", help="MiB of memory (default 64)"
    )
    create.add_argument(
        "--abi",
        choices=[protocol.removesuffix(_ABI) for protocol in PROTOCOLS],
        default=PROTOCOLS[0].removesuffix(_ABI),
        help="request layout of its frontends (default %(default)s)",
    )
    create.add_argument("--no-wait", action="store_true", help="do not wait for its devices")
    _timeout(create)
    _device_options(create, sides)


def _add_of_type(commands: Subparsers, command: Command) -> None:
    """Add a sub-command that a device type brings."""
    if command.name in commands.choices:
        raise ConfigError(f"guest {command.name}: two device types bring this command")
    run = command.run
    parser = _named(_add(commands, command.name, lambda args: run(args, _CONSOLE), command.summary))
    command.add_arguments(parser)


def _add(commands: Subparsers, name: str, run: Run, summary: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
    settings.add_options(parser)
    parser.set_defaults(run=run)
    return parser


def _named(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("name", metavar="NAME")
    return parser


def _device_options(parser: argparse.ArgumentParser, sides: Sides) -> None:
    """Add each type's option that asks for a device."""
    for kind, side in sides.items():
        flag, metavar, syntax = side.option
        try:
            parser.add_argument(
                flag,
                action="append",
                default=[],
                dest=_wanted(kind),
                metavar=metavar,
                help=f"{syntax}; may be given several times",
            )
        except argparse.ArgumentError as error:
            raise ConfigError(f"guest {flag}: of frontends {kind!r}: it is taken") from error


def _wanted(kind: str) -> str:
    """Where the arguments of a kind's option are kept."""
    return f"new_{kind}"


def _new_devices(args: argparse.Namespace, guest: GuestHandle | None = None) -> list[NewDevice]:
    """The devices that are asked for, type by type; numbered beside those the guest has."""
    devices: list[NewDevice] = []
    for kind, side in args.sides.items():
        if arguments := getattr(args, _wanted(kind)):
            devices += side.new_devices(arguments, guest.taken(kind) if guest else ())
    return devices


def _timeout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout",
        type=float,
        default=CONNECT_TIMEOUT,
        metavar="S",
        help="seconds for its devices to become connected (default %(default)g)",
    )


def _memory(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= 16384:
        raise argparse.ArgumentTypeError(f"{text!r}: expected MiB, 1 to 16384")
    return int(text)


def _usage(parser: argparse.ArgumentParser) -> int:
    parser.print_help()
    return 2


def _find(args: argparse.Namespace) -> GuestHandle:
    """The guest of the argument NAME; raises ConfigError if there is none."""
    from embedded.guest.launch import find_guest

    return find_guest(args.embedded_dir, args.name)


# --- what the commands do --------------------------------------------------------------------


def _create(args: argparse.Namespace) -> int:
    from embedded.guest.launch import create_guest

    guest = create_guest(
        args.embedded_dir,
        args.name,
        _new_devices(args),
        memory_pages=args.memory * 256,
        timeout=args.timeout,
        protocol=f"{args.abi}{_ABI}",
        wait=not args.no_wait,
    )
    guest.leave()
    with guest.client() as client:
        devices = client.describe().devices
    output.show([output.Cell(f"guest {guest.name}: domain {guest.domid}", output.GOOD)])
    if devices:
        sides = _present(args.sides, devices)
        columns = [output.Column("NAME"), output.Column("STATE"), *_own_columns(sides)]
        rows = [
            [one.name, one.state, *_own_cells(sides, one), _device(one.backend)] for one in devices
        ]
        output.table("", [*columns, "DEVICE"], rows)
    return 0


def _list(args: argparse.Namespace) -> int:
    from embedded.guest.launch import describe, list_guests

    guests = [
        (guest, describe(args.embedded_dir, guest)) for guest in list_guests(args.embedded_dir)
    ]
    if args.json:
        output.print_json(
            [
                {
                    "name": guest.name,
                    "domid": guest.domid,
                    "memory_pages": guest.pages,
                    "pid": said.pid if said else None,
                    "devices": [_plain(one) for one in said.devices] if said else None,
                }
                for guest, said in guests
            ]
        )
        return 0
    sides = _present(args.sides, [one for _, said in guests if said for one in said.devices])
    own = _own_columns(sides)
    columns: list[str | output.Column] = ["GUEST", output.Column("DOMAIN", right=True)]
    columns += ["NAME", "STATE", "BACKEND", *own, "DEVICE", "ERROR"]
    rows: list[list[str]] = []
    for guest, said in guests:
        head = [guest.name, str(guest.domid)]
        if said is None or not said.devices:
            state = "does not answer" if said is None else ""
            rows.append([*head, "-", state, *[""] * (len(own) + 3)])
        for one in said.devices if said else []:
            states = [one.name, one.state, one.backend_state]
            cells = _own_cells(sides, one)
            rows.append([*head, *states, *cells, _device(one.backend), one.error])
    if rows:
        output.table("", columns, rows)
    else:
        output.show([output.Cell("no guests")])
    return 0


def _destroy(args: argparse.Namespace) -> int:
    guest = _find(args)
    guest.destroy()
    output.show([output.Cell(f"guest {guest.name}: destroyed")])
    return 0


def _attach(args: argparse.Namespace) -> int:
    if not any(getattr(args, _wanted(kind)) for kind in args.sides):
        flags = ", ".join(side.option.flag for side in args.sides.values())
        args.usage_error(f"one of the following arguments is required: {flags}")
    guest = _find(args)
    devices = _new_devices(args, guest)
    guest.attach(devices, args.timeout)
    names = ", ".join(device.name for device in devices)
    output.show([output.Cell(f"guest {guest.name}: attached {names}")])
    return 0


def _detach(args: argparse.Namespace) -> int:
    guest = _find(args)
    if not guest.detach(args.device):
        return output.fail(
            f"detach device: {args.device} of {guest.name}: its backend did not close in time",
            "It was removed all the same.",
        )
    output.show([output.Cell(f"guest {guest.name}: detached {args.device}")])
    return 0


def _reboot(args: argparse.Namespace) -> int:
    guest = _find(args)
    with guest.client() as client:
        said = client.reboot(orderly=not args.crash, timeout=args.timeout)
    counts = Counter(device.kind for device in said.devices)
    what = [plural(counts[kind], side.noun) for kind, side in args.sides.items() if kind in counts]
    output.show(
        [output.Cell(f"guest {guest.name}: {', '.join(what) or 'no device'} connected again")]
    )
    return 0


# --- what is said of devices -----------------------------------------------------------------


def _device(backend: str) -> str:
    """`TYPE/DOMID/DEVID` of a backend's path, the name the other commands know it by."""
    return "/".join(backend.split("/")[-3:])


def _plain(device: GuestDevice) -> dict[str, object]:
    """A device as JSON: what its type says of it stands beside what all have."""
    import msgspec

    fields = msgspec.structs.asdict(device)
    return {**fields.pop("details"), **fields}


def _present(sides: Sides, devices: Iterable[GuestDevice]) -> list[GuestSide]:
    """The types that are among the devices, in the order of the types."""
    kinds = {device.kind for device in devices}
    return [side for kind, side in sides.items() if kind in kinds]


def _own_columns(sides: list[GuestSide]) -> list[output.Column]:
    return [output.Column(one.heading, right=one.right) for side in sides for one in side.columns]


def _own_cells(sides: list[GuestSide], device: GuestDevice) -> list[str]:
    """A device's cells below its own type's columns; the others' stay empty."""
    cells: list[str] = []
    for side in sides:
        own = side.kind == device.kind
        cells += side.cells(device, _CONSOLE) if own else [""] * len(side.columns)
    return cells
