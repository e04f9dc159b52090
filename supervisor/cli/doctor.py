# SPDX-License-Identifier: MIT
"""`xenbackd doctor`: what this host has and lacks, each line with its remedy."""

from __future__ import annotations

import argparse
from itertools import groupby
from typing import TYPE_CHECKING, Any

from config.model import Config
from supervisor.cli import output
from supervisor.cli.doctor_checks import all_checks, can_serve, chosen
from supervisor.cli.doctor_probe import HostProbe, Probe
from supervisor.cli.doctor_types import EMBEDDED, XEN, Finding, Level
from supervisor.cli.output import BAD, DIM, GOOD, WARN, Block, Cell, Column
from supervisor.cli.parsers import add_command, add_json
from supervisor.cli.text import plural

if TYPE_CHECKING:
    from supervisor.cli.parsers import Subparsers

EPILOG = """\
Exit code 0 if devices can be served on the hypervisor in question, else 1. That is the one given
by --hypervisor, else the configuration's; "auto" is real Xen where /dev/xen/evtchn is, and else
the embedded one. Nothing on the host is changed.

examples:
  xenbackd doctor
  xenbackd doctor -c /etc/xenbackd/xenbackd.yaml --devices 500
  xenbackd doctor --json | jq -r '.findings[] | select(.level != "ok") | .remedy'
"""

STYLES = {Level.OK: GOOD, Level.WARNING: WARN, Level.MISSING: BAD}


def add_parser(subparsers: Subparsers) -> None:
    """Add the sub-command."""
    parser = add_command(
        subparsers,
        "doctor",
        run,
        description="Say what this host has and lacks for serving devices, with the remedies.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "--hypervisor", choices=("auto", "xen", "embedded"), help="the one in question"
    )
    parser.add_argument(
        "--devices",
        metavar="N",
        type=int,
        default=500,
        help="room for how many devices (default 500)",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Look at this host."""
    config: Config = args.loaded or Config()
    return report(
        HostProbe(),
        config,
        run_dir=str(args.run_dir),
        hypervisor=args.hypervisor or config.hypervisor,
        devices=args.devices,
        as_json=args.json,
    )


def report(
    probe: Probe, config: Config, *, run_dir: str, hypervisor: str, devices: int, as_json: bool
) -> int:
    """Print the findings about a host; the exit code says whether it can serve."""
    findings = all_checks(probe, config, run_dir, devices)
    target = chosen(probe, hypervisor)
    if as_json:
        output.print_json(as_data(findings, target))
    else:
        output.show(blocks(findings, target, hypervisor))
    return 0 if can_serve(findings, target) else 1


def as_data(findings: list[Finding], target: str) -> dict[str, Any]:
    """The report for machines."""
    return {
        "hypervisor": "xen" if target == XEN else "embedded",
        "can_serve": can_serve(findings, target),
        "can_serve_xen": can_serve(findings, XEN),
        "can_serve_embedded": can_serve(findings, EMBEDDED),
        "findings": [
            {
                "section": one.section,
                "level": one.level.value,
                "subject": one.subject,
                "text": one.text,
                "remedy": one.remedy,
                "blocks": ["xen" if what == XEN else "embedded" for what in one.blocks],
            }
            for one in findings
        ],
    }


def blocks(findings: list[Finding], target: str, hypervisor: str) -> list[Block]:
    """The report for people: sections, then the verdict."""
    columns = (Column(""), Column(""), Column("", wrap=True))
    ordered = sorted(findings, key=lambda one: _SECTIONS.index(one.section))
    result: list[Block] = []
    for section, group in groupby(ordered, key=lambda one: one.section):
        rows = [row for one in group for row in _rows(one, target)]
        result += [output.make_table(section, columns, rows), Cell("")]
    for what in (XEN, EMBEDDED):
        result.append(_verdict(findings, what, asked=what == target, hypervisor=hypervisor))
    return result


_SECTIONS = ("Python", "Kernel", "Jail", "Host", "Real Xen", "Embedded")


def _rows(finding: Finding, target: str) -> list[list[Cell]]:
    style = _style(finding, target)
    rows = [[Cell(f"  {finding.level.value}", style), Cell(finding.subject), Cell(finding.text)]]
    if finding.remedy:
        rows.append([Cell(""), Cell(""), Cell(f"-> {finding.remedy}", "bold")])
    return rows


def _style(finding: Finding, target: str) -> str:
    # What only real Xen lacks is no problem where nobody asks for it.
    if finding.section == "Real Xen" and target != XEN and finding.level is not Level.OK:
        return DIM
    return STYLES[finding.level]


def _verdict(findings: list[Finding], what: str, *, asked: bool, hypervisor: str) -> Cell:
    against = [one.subject for one in findings if what in one.blocks]
    reason = f"  (asked for: {hypervisor})" if asked else ""
    if not against:
        return Cell(f"{what}: devices can be served{reason}", GOOD)
    count = plural(len(against), "thing")
    text = f"{what}: cannot be served, {count} missing: {', '.join(against)}{reason}"
    return Cell(text, BAD if asked else DIM)
