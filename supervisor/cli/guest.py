# SPDX-License-Identifier: MIT
"""`xenbackd guest`: guests of the embedded hypervisor, from making one to loading its disks.

A guest is a process of its own that lives on when the command has ended. It needs an embedded
hypervisor (`serve --embedded` or `embedded`) and, to get its disks connected, a supervisor.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from supervisor.cli import output, settings
from supervisor.cli.parsers import add_command, add_json
from supervisor.cli.text import plural, size

if TYPE_CHECKING:
    from embedded.guest.launch import GuestHandle
    from supervisor.cli.parsers import Subparsers

EPILOG = """\
A disk is PATH[,ro][,vdev=xvda][,kind=vbd][,format=raw]; without vdev it gets the next free name.
NAME is the guest's name or domain id, DISK its disk's vdev (xvda) or device number.

examples:
  xenbackd guest create demo --disk /tmp/a.img --disk /tmp/b.img,ro
  xenbackd guest io demo xvda --rw randread --bs 4k --iodepth 32 --runtime 5
  xenbackd guest dd demo xvda --to copy.img
  xenbackd guest destroy demo
"""

DISK_HELP = "PATH[,ro][,vdev=xvda][,kind=vbd][,format=raw]; may be given several times"
CONNECT_TIMEOUT = 20.0
"""Seconds for a guest's disks to become Connected unless --timeout says otherwise."""

Run = Callable[[argparse.Namespace], int]


def add_parser(subparsers: Subparsers) -> None:
    """Add the sub-command and its own sub-commands."""
    from supervisor.cli import guest_io

    parser = add_command(
        subparsers,
        "guest",
        lambda args: _usage(parser),
        description="Guests of the embedded hypervisor: create, list, change, load, destroy.",
        epilog=EPILOG,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="guest_command")
    create = _add(commands, "create", _create, "make a guest, wait until its disks are connected")
    create.add_argument("name", metavar="NAME")
    create.add_argument("--disk", action="append", default=[], metavar="DISK", help=DISK_HELP)
    create.add_argument(
        "--memory", type=_memory, default=64, metavar="MIB", help="MiB of memory (default 64)"
    )
    create.add_argument(
        "--abi",
        choices=["x86_64", "x86_32", "arm"],
        default="x86_64",
        help="request layout of its frontends (default x86_64)",
    )
    create.add_argument("--no-wait", action="store_true", help="do not wait for its disks")
    _timeout(create)
    listing = _add(commands, "list", _list, "all guests and their disks")
    add_json(listing)
    destroy = _add(commands, "destroy", _destroy, "close its disks and end it")
    destroy.add_argument("name", metavar="NAME")
    attach = _add(commands, "attach", _attach, "attach disks while it runs")
    attach.add_argument("name", metavar="NAME")
    attach.add_argument("--disk", action="append", required=True, metavar="DISK", help=DISK_HELP)
    _timeout(attach)
    detach = _add(commands, "detach", _detach, "detach a disk while it runs")
    detach.add_argument("name", metavar="NAME")
    detach.add_argument("disk", metavar="DISK")
    reboot = _add(commands, "reboot", _reboot, "close its disks and connect them anew")
    reboot.add_argument("name", metavar="NAME")
    reboot.add_argument("--crash", action="store_true", help="without closing, as a kernel crash")
    _timeout(reboot)
    guest_io.add_parsers(lambda name, run, summary: _add(commands, name, run, summary))


def _add(commands: Subparsers, name: str, run: Run, summary: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
    settings.add_options(parser)
    parser.set_defaults(run=run)
    return parser


def _timeout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout",
        type=float,
        default=CONNECT_TIMEOUT,
        metavar="S",
        help="seconds for its disks to become Connected (default %(default)g)",
    )


def _memory(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= 16384:
        raise argparse.ArgumentTypeError(f"{text!r}: expected MiB, 1 to 16384")
    return int(text)


def _usage(parser: argparse.ArgumentParser) -> int:
    parser.print_help()
    return 2


def find(args: argparse.Namespace) -> GuestHandle:
    """The guest of the argument NAME; raises ConfigError if there is none."""
    from embedded.guest.launch import find_guest

    return find_guest(args.embedded_dir, args.name)


def _create(args: argparse.Namespace) -> int:
    from embedded.guest.launch import create_guest
    from worker.devices.block.guest.disk import DiskSpec

    guest = create_guest(
        args.embedded_dir,
        args.name,
        [DiskSpec.parse(text) for text in args.disk],
        memory_pages=args.memory * 256,
        timeout=args.timeout,
        protocol=f"{args.abi}-abi",
        wait=not args.no_wait,
    )
    guest.leave()
    with guest.client() as client:
        disks = client.disks().disks
    output.show([output.Cell(f"guest {guest.name}: domain {guest.domid}", output.GOOD)])
    if disks:
        columns: list[str | output.Column] = [
            "DISK",
            "STATE",
            output.Column("SIZE", right=True),
            "DEVICE",
        ]
        rows = [[d.vdev, d.state, size(d.size), _device(d.backend)] for d in disks]
        output.table("", columns, rows)
    return 0


def _device(backend: str) -> str:
    """`vbd/3/51712` of a backend's path, the name the other commands know it by."""
    return "/".join(backend.split("/")[-3:])


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
                    "disks": said.disks if said else None,
                }
                for guest, said in guests
            ]
        )
        return 0
    columns: list[str | output.Column] = [
        "GUEST",
        output.Column("DOMAIN", right=True),
        "DISK",
        "STATE",
        "BACKEND",
    ]
    columns += [output.Column("SIZE", right=True), "MODE", "DEVICE", "ERROR"]
    rows: list[list[str]] = []
    for guest, said in guests:
        own = [guest.name, str(guest.domid)]
        if said is None or not said.disks:
            rows.append([*own, "-", "does not answer" if said is None else "", *[""] * 5])
        for disk in said.disks if said else []:
            mode = "ro" if disk.readonly else "rw"
            states = [disk.vdev, disk.state, disk.backend_state]
            rows.append([*own, *states, size(disk.size), mode, _device(disk.backend), disk.error])
    if rows:
        output.table("", columns, rows)
    else:
        output.show([output.Cell("no guests")])
    return 0


def _destroy(args: argparse.Namespace) -> int:
    guest = find(args)
    guest.destroy()
    output.show([output.Cell(f"guest {guest.name}: destroyed")])
    return 0


def _attach(args: argparse.Namespace) -> int:
    from worker.devices.block.guest.disk import DiskSpec

    guest = find(args)
    disks = guest.attach([DiskSpec.parse(text) for text in args.disk], args.timeout)
    names = ", ".join(disk.vdev for disk in disks)
    output.show([output.Cell(f"guest {guest.name}: attached {names}")])
    return 0


def _detach(args: argparse.Namespace) -> int:
    guest = find(args)
    if not guest.detach(args.disk):
        return output.fail(
            f"detach disk: {args.disk} of guest {guest.name}: its backend did not close in time",
            "It was removed all the same.",
        )
    output.show([output.Cell(f"guest {guest.name}: detached {args.disk}")])
    return 0


def _reboot(args: argparse.Namespace) -> int:
    guest = find(args)
    with guest.client() as client:
        said = client.reboot(orderly=not args.crash, timeout=args.timeout)
    text = f"guest {guest.name}: {plural(len(said.disks), 'disk')} connected anew"
    output.show([output.Cell(text)])
    return 0
